"""A trained network: on disk, judged, asked, drawn."""

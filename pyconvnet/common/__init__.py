"""What every part of the package uses: checks of arguments, devices, files, random numbers, words."""

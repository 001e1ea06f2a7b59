"""The parts of kernel_report.py: what compiler, disassembler and emulator say about the kernels."""

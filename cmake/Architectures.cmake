# CMAKE_CUDA_ARCHITECTURES: what the user chose (-D or $CUDAARCHS), else the GPUs of this machine, else what every
# card from sm_75 up can run: PTX for Turing, machine code for sm_80 (which serves 8.x) and sm_90, PTX for what is
# newer. That must not be Turing's: what is left out for an old architecture, tensor cores above all, is missing from
# its PTX on the newest card, too (kernels/common/image.h).
# Machine code for sm_90 is made from compute_80: no kernel outside hopper/ has code of its own for compute_90
# (tests/test_architectures.py), so the PTX is the same word for word, and one of three passes of the compiler is saved.
# CMake's list cannot say that, hence PYCONVNET_FROM_COMPUTE_80.
# -DPYCONVNET_PORTABLE=ON, of release wheels: that list whatever GPU is here.
# `native` is not used: without a GPU it stops old CMake and falls back silently in new.
set(PYCONVNET_FROM_COMPUTE_80 "")
if(DEFINED CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
  return()
endif()
set(_found "")
set(_rc 1)
if(NOT PYCONVNET_PORTABLE)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE _cc OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _rc)
endif()
if(_rc EQUAL 0)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" _found "${_cc}")
  list(REMOVE_DUPLICATES _found)
  list(TRANSFORM _found REPLACE "\\.([0-9])$" "\\1-real")
endif()
if(_found)
  set(CMAKE_CUDA_ARCHITECTURES ${_found})
else()
  set(CMAKE_CUDA_ARCHITECTURES 75-virtual 80-real 80-virtual)
  set(PYCONVNET_FROM_COMPUTE_80 90-real)
endif()

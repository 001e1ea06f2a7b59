# CMAKE_CUDA_ARCHITECTURES: what the user chose (-D or $CUDAARCHS), else the GPUs of this machine, else PTX for
# every device from sm_75 up and machine code for sm_80 and sm_90. `native` is not used: without a GPU it stops
# old CMake and falls back silently in new.
if(DEFINED CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
  return()
endif()
execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
  OUTPUT_VARIABLE _cc OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE _rc)
set(_found "")
if(_rc EQUAL 0)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" _found "${_cc}")
  list(REMOVE_DUPLICATES _found)
  list(TRANSFORM _found REPLACE "\\.([0-9])$" "\\1-real")
endif()
if(_found)
  set(CMAKE_CUDA_ARCHITECTURES ${_found})
else()
  set(CMAKE_CUDA_ARCHITECTURES 75-virtual 80-real 90-real)
endif()

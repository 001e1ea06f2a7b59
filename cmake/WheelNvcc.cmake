# Finds the CUDA toolkit: nvcc of this machine, else the one of NVIDIA's PyPI wheels, which setup.py asks for
# (pip install "cuda-toolkit[nvcc,cudart,cccl]==13.0.*").
if(CMAKE_CUDA_COMPILER OR DEFINED ENV{CUDACXX})
  return()
endif()
# setup.py passes -DPYCONVNET_WHEEL_NVCC=ON where it has fetched the wheels.
if(NOT PYCONVNET_WHEEL_NVCC)
  find_program(PYCONVNET_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
endif()
if(NOT PYCONVNET_NVCC)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import nvidia.cu13 as m; print(list(m.__path__)[0])"
    OUTPUT_VARIABLE _cu13 OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT EXISTS "${_cu13}/bin/nvcc")
    message(FATAL_ERROR "nvcc not found: install the CUDA toolkit (>= 13.0), or "
      "pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*'")
  endif()
  set(PYCONVNET_NVCC "${_cu13}/bin/nvcc" CACHE FILEPATH "" FORCE)
  # The wheels have lib/ where nvcc.profile says lib64/ (to find out about the compiler, CMake takes CUDAFLAGS alone) ...
  if(DEFINED ENV{CUDAFLAGS})
    set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${_cu13}/lib")
  else()
    set(CMAKE_CUDA_FLAGS_INIT "-L${_cu13}/lib")
  endif()
  # ... and no unversioned libcudart.so, which find_package(CUDAToolkit) wants.
  file(GLOB _cudart "${_cu13}/lib/libcudart.so.*")
  set(CUDA_CUDART "${_cudart}" CACHE FILEPATH "")
  set(CUDA_cudart_LIBRARY "${_cudart}" CACHE FILEPATH "")  # of the target CUDA::cudart
  set(CUDAToolkit_ROOT "${_cu13}")
endif()
set(CMAKE_CUDA_COMPILER "${PYCONVNET_NVCC}")

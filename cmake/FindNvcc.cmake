# Sets lowbit_nvcc (true or false), lowbit_cuda_status (the compiler, or why there is none) and lowbit_cuda_root.
#
# A compiler that is missing, too old or broken leaves the CUDA kernels out with a message: whoever installs the
# package for the CPU must not need to know about it.

set(lowbit_nvcc FALSE)
if(CMAKE_CROSSCOMPILING)
  set(lowbit_cuda_status "not built when cross compiling")
  return()
endif()
if(CMAKE_VERSION VERSION_LESS 3.26)
  set(lowbit_cuda_status "CMake 3.26 or newer is needed: ${CMAKE_VERSION} does not know C++20 for CUDA")
  return()
endif()

# What an earlier run found is forgotten where it was nothing, or has gone.
if(NOT CMAKE_CUDA_COMPILER OR NOT EXISTS ${CMAKE_CUDA_COMPILER})
  unset(CMAKE_CUDA_COMPILER CACHE)
  file(REMOVE ${CMAKE_BINARY_DIR}/CMakeFiles/${CMAKE_VERSION}/CMakeCUDACompiler.cmake)
endif()
if(CMAKE_CUDA_COMPILER)
  set(nvcc ${CMAKE_CUDA_COMPILER})
elseif(DEFINED ENV{CUDACXX})
  find_program(nvcc NAMES $ENV{CUDACXX} NO_CACHE)
else()
  find_program(nvcc NAMES nvcc NO_CACHE)
endif()
if(NOT nvcc)
  set(lowbit_cuda_status "no nvcc found (looked for CUDACXX and on PATH)")
  return()
endif()

execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE output ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR NOT output MATCHES "release [0-9.]+, V([0-9.]+)")
  set(lowbit_cuda_status "${nvcc} does not run")
  return()
endif()
set(version ${CMAKE_MATCH_1})
if(version VERSION_LESS 12.8)
  set(lowbit_cuda_status "${nvcc} is version ${version}; 12.8 or newer is needed")
  return()
endif()

# Where it keeps headers and libraries. In pip's packages these are in lib, where nvcc itself does not look.
execute_process(COMMAND ${nvcc} --dryrun -E -x cu /dev/null ERROR_VARIABLE output OUTPUT_QUIET)
string(REGEX MATCH "TOP=([^\n]+)" _ "${output}")
cmake_path(SET lowbit_cuda_root NORMALIZE "${CMAKE_MATCH_1}")
if(NOT EXISTS ${lowbit_cuda_root}/lib64)
  set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${lowbit_cuda_root}/lib")
endif()

# Whether it gets along with the host compiler shows when it compiles something.
set(ENV{CUDACXX} ${nvcc})
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  set(lowbit_nvcc TRUE)
  set(lowbit_cuda_status "nvcc ${version}")
else()
  set(lowbit_cuda_status "${nvcc} ${version} does not compile with this host compiler")
endif()

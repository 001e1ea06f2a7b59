# flavours.cmake: how the emulated build is compiled, by the checks that PYCONVNET_EMULATOR_FLAVOUR asks for
#
#   plain  optimised; NaN-poisoned shared memory, redzones, schedules, divergence and deadlock reports
#   asan   AddressSanitizer and UndefinedBehaviorSanitizer in kernels and executor; Python needs
#          LD_PRELOAD=$(g++ -print-file-name=libasan.so) and ASAN_OPTIONS=detect_leaks=0
#   race   the race detector and the global bounds checker of racecheck.cpp: kernels carry the compiler's
#          -fsanitize=thread instrumentation, libtsan is not linked, the executor is not instrumented
#   count  counts bank conflicts and sectors of every access (access_counts.cpp): the same instrumentation, and
#          a call at every basic block
#
# pcn_emulator_flavour(kernels executor) applies the flavour of the cache variable to the two targets.
# pcn_emulator_includes(target) puts the toolkit stand-in first in the target's include path.
set(PYCONVNET_EMULATOR_MARCH "" CACHE STRING
  "Level of the emulated kernels: x86-64 (runs everywhere), x86-64-v2, -v3 or -v4; empty: v3 where this machine has it")

set(PYCONVNET_EMULATOR_OPTIMISE "-O3" CACHE STRING "Optimisation of the emulated kernels in the plain flavour")

set(PCN_EMULATION_DIR ${CMAKE_CURRENT_LIST_DIR})

# Sets PCN_EMULATOR_MARCH. A level above x86-64 is written into the module ("x86 ISA needed"), and the loader refuses the
# module on a processor without it, before any of its code runs. v3 is therefore taken by itself only where the loader
# looks (glibc 2.33): the program of this check is marked, too. The result is cached, once per build folder.
function(pcn_find_emulator_march)
  set(march "${PYCONVNET_EMULATOR_MARCH}")
  if(NOT march)
    include(CheckCXXSourceRuns)
    set(CMAKE_REQUIRED_FLAGS "-march=x86-64-v3")
    set(CMAKE_REQUIRED_LINK_OPTIONS "-Wl,-z,x86-64-v3,--fatal-warnings")
    set(CMAKE_REQUIRED_QUIET ON)
    check_cxx_source_runs("
      #include <features.h>
      #if !__GLIBC_PREREQ(2, 33)
      #error the loader does not look
      #endif
      int main() { return 0; }" PCN_LOADS_X86_64_V3)
    if(PCN_LOADS_X86_64_V3)
      set(march x86-64-v3)
    endif()
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT march MATCHES "^x86-64(-v[234])?$")
    message(FATAL_ERROR "PYCONVNET_EMULATOR_MARCH must be x86-64, x86-64-v2, x86-64-v3 or x86-64-v4, got '${march}': "
      "only a level can be checked when the module is loaded")
  endif()
  set(PCN_EMULATOR_MARCH "${march}" PARENT_SCOPE)
endfunction()

function(pcn_emulator_includes)
  foreach(target IN LISTS ARGN)
    target_include_directories(${target} BEFORE PRIVATE ${PCN_EMULATION_DIR}/toolkit)
  endforeach()
endfunction()

function(pcn_emulator_flavour kernels executor)
  set(PCN_EMULATOR_MARCH "")
  if(PYCONVNET_EMULATOR_FLAVOUR STREQUAL "plain")
    pcn_find_emulator_march()
  endif()
  pcn_emulator_includes(${kernels} ${executor})
  set(flavour "${PYCONVNET_EMULATOR_FLAVOUR}")
  # CUDA's sqrt sets no errno and its comparisons do not trap; without these two g++ vectorises little.
  # (-Wno-psabi: a note on the 64-byte alignment of tensor maps passed by value.)
  target_compile_options(${kernels} PRIVATE -fno-math-errno -fno-trapping-math -Wno-psabi)
  target_compile_definitions(${kernels} PRIVATE PCN_EMULATOR_FLAVOUR="${flavour}")
  target_compile_definitions(${executor} PRIVATE PCN_EMULATOR_FLAVOUR="${flavour}")
  target_compile_definitions(${kernels} INTERFACE PCN_EMULATOR_MARCH="${PCN_EMULATOR_MARCH}")
  if(flavour STREQUAL "plain")
    target_compile_options(${kernels} PRIVATE ${PYCONVNET_EMULATOR_OPTIMISE}
      $<$<BOOL:${PCN_EMULATOR_MARCH}>:-march=${PCN_EMULATOR_MARCH}>)
    if(PCN_EMULATOR_MARCH MATCHES "^x86-64-v")
      target_link_options(${kernels} PUBLIC -Wl,-z,${PCN_EMULATOR_MARCH})
    endif()
    target_compile_options(${executor} PRIVATE -O2)
  elseif(flavour STREQUAL "asan")
    set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
    target_compile_options(${kernels} PRIVATE -O1 ${sanitizers})
    target_compile_options(${executor} PRIVATE -O2 -fsanitize=address -fno-omit-frame-pointer -g1)
  elseif(flavour STREQUAL "race")
    target_compile_options(${kernels} PRIVATE -O1 -g -fsanitize=thread --param tsan-instrument-func-entry-exit=0)
    target_compile_options(${executor} PRIVATE -O2 -g)
    target_compile_definitions(${executor} PRIVATE PCN_RACECHECK)
    target_compile_definitions(${kernels} PRIVATE PCN_RACECHECK)
  elseif(flavour STREQUAL "count")
    # Without scalar replacement a float4 stays one access of 16 bytes. The blocks of a function stay in the order of the
    # source, and one piece of source stays one piece of code, so that the lanes of a warp meet in it.
    target_compile_options(${kernels} PRIVATE -O1 -g -fsanitize=thread -fsanitize-coverage=trace-pc
      -fno-tree-sra -fno-ipa-sra -fno-reorder-blocks -fno-thread-jumps -fno-tree-dominator-opts -fno-crossjumping)
    target_compile_options(${executor} PRIVATE -O2 -g)
    target_compile_definitions(${executor} PRIVATE PCN_COUNT)
    target_compile_definitions(${kernels} PRIVATE PCN_COUNT)
  else()
    message(FATAL_ERROR "PYCONVNET_EMULATOR_FLAVOUR must be plain, asan, race or count, got '${flavour}'")
  endif()
endfunction()

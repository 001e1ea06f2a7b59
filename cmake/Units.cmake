# Units: several source files compiled as one translation unit.
#
# Most of what a small file costs is the same for each: its headers, read once for the host and once for each
# architecture, or for the bindings pybind11, of which a compilation makes much of the code anew. In one unit that is
# paid once: the pointwise family's 13 kernels compile in a fifth of the time. The price is that what a file hides in its
# unnamed namespace the others of its unit see, so a name is used once in a unit (tests/test_structure.py).
#
#   pcn_unit(SOURCES NAME FILES...)   appends to SOURCES one file that includes FILES, or FILES themselves with
#                                     PYCONVNET_UNITS=OFF or where there is only one
option(PYCONVNET_UNITS "Compile small files together" ON)

function(pcn_unit sources name)
  list(LENGTH ARGN count)
  if(NOT PYCONVNET_UNITS OR count LESS 2)
    set(${sources} ${${sources}} ${ARGN} PARENT_SCOPE)
    return()
  endif()
  list(GET ARGN 0 first)
  get_filename_component(suffix ${first} LAST_EXT)
  set(text "")
  foreach(file IN LISTS ARGN)
    get_filename_component(file ${file} ABSOLUTE BASE_DIR ${PROJECT_SOURCE_DIR})
    string(APPEND text "#include \"${file}\"\n")
  endforeach()
  set(unit ${PROJECT_BINARY_DIR}/units/${name}${suffix})
  file(CONFIGURE OUTPUT ${unit} CONTENT "${text}" @ONLY)
  set(${sources} ${${sources}} ${unit} PARENT_SCOPE)
endfunction()

# pcn_units_by_tile(SOURCES FILES...)   a unit of all files whose names differ in the tile alone: conv2d_fprop_tile64.cu,
#                                       _tile96.cu and _rows16.cu are one, conv2d_fprop_mma64x64_bf16.cu is of another
function(pcn_units_by_tile sources)
  set(units "")
  foreach(file IN LISTS ARGN)
    get_filename_component(unit ${file} NAME_WE)
    string(REGEX REPLACE "(rows|tile)[0-9]+$" "tile" unit ${unit})
    string(REGEX REPLACE "mma[0-9x]+" "mma" unit ${unit})
    list(APPEND units ${unit})
    list(APPEND files_${unit} ${file})
  endforeach()
  list(REMOVE_DUPLICATES units)
  foreach(unit IN LISTS units)
    pcn_unit(${sources} ${unit} ${files_${unit}})
  endforeach()
  set(${sources} ${${sources}} PARENT_SCOPE)
endfunction()

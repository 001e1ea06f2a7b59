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

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

# pcn_tile_units(SOURCES HOPPER LIST)   a unit of each list in LIST, the tiles.inc of a family: the lines of PCN_FPROP_MMA are
#                                conv2d_fprop_mma.cu, all of 9.0 conv2d_wgmma.cu; with PYCONVNET_UNITS=OFF, a file of each
#                                line, named after its kernel
function(pcn_tile_units sources hopper list)
  set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${list})
  file(STRINGS ${list} lines REGEX "^PCN_[A-Z_0-9]+\\(conv2d_")
  set(units "")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "^PCN_([A-Z]+)_([A-Z_0-9]+)\\(([a-z_0-9]+), [^)]*\\)" line "${line}")
    string(TOLOWER ${CMAKE_MATCH_1} direction)
    string(TOLOWER ${CMAKE_MATCH_2} kind)
    set(unit ${CMAKE_MATCH_3})
    set(header conv/${direction}.h)
    set(of ${sources})
    if(kind MATCHES "^wgmma")
      set(header conv/hopper/${direction}.h)
      set(of ${hopper})
    elseif(kind MATCHES "^mma")
      set(header conv/mma_${direction}.h)
    elseif(kind STREQUAL "rows")
      set(kind tile)
    endif()
    if(PYCONVNET_UNITS AND of STREQUAL hopper)  # one unit: all are for one architecture, and share their headers
      set(unit conv2d_wgmma)
    elseif(PYCONVNET_UNITS)
      set(unit conv2d_${direction}_${kind})
    endif()
    if(NOT unit IN_LIST units)
      list(APPEND units ${unit})
      set(of_${unit} ${of})
      set(headers_${unit} "")
      set(lines_${unit} "")
    endif()
    if(NOT headers_${unit} MATCHES "\"${header}\"")
      string(APPEND headers_${unit} "#include \"${header}\"\n")
    endif()
    string(APPEND lines_${unit} "${line}\n")
  endforeach()
  foreach(unit IN LISTS units)
    set(file ${PROJECT_BINARY_DIR}/units/${unit}.cu)
    file(CONFIGURE OUTPUT ${file} CONTENT "${headers_${unit}}\nnamespace pcn {\n${lines_${unit}}}  // namespace pcn\n" @ONLY)
    list(APPEND ${of_${unit}} ${file})
  endforeach()
  set(${sources} ${${sources}} PARENT_SCOPE)
  set(${hopper} ${${hopper}} PARENT_SCOPE)
endfunction()

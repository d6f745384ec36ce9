# What the headers of limen include, found in the same way by the build and by find_package(limen).
# On failure limen_missing says what is wanted.

set(limen_missing "")

# Eigen 3.4 or anything newer: its own version file refuses 5 to whoever asks for 3.4.
find_package(Eigen3 QUIET NO_MODULE)
if(NOT TARGET Eigen3::Eigen)
  list(APPEND limen_missing "Eigen 3.4 or newer (Eigen3_DIR)")
elseif(Eigen3_VERSION VERSION_LESS 3.4)
  list(APPEND limen_missing "Eigen 3.4 or newer (found ${Eigen3_VERSION} in ${Eigen3_DIR})")
endif()

# The headers alone: some packages of xsimd export a target that links to a library they lack.
find_path(LIMEN_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)
mark_as_advanced(LIMEN_XSIMD_INCLUDE_DIR)
if(NOT LIMEN_XSIMD_INCLUDE_DIR)
  list(APPEND limen_missing "xsimd 8.1 or newer (LIMEN_XSIMD_INCLUDE_DIR)")
else()
  set(limen_xsimd_version "")
  file(STRINGS "${LIMEN_XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp" limen_lines
       REGEX "^#define XSIMD_VERSION_(MAJOR|MINOR|PATCH) ")
  foreach(limen_part MAJOR MINOR PATCH)
    if(limen_lines MATCHES "XSIMD_VERSION_${limen_part} +([0-9]+)")
      string(APPEND limen_xsimd_version ".${CMAKE_MATCH_1}")
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" limen_xsimd_version "${limen_xsimd_version}")
  if(limen_xsimd_version VERSION_LESS 8.1)
    list(APPEND limen_missing
         "xsimd 8.1 or newer (found ${limen_xsimd_version} in ${LIMEN_XSIMD_INCLUDE_DIR})")
  endif()
  if(NOT TARGET limen::xsimd)
    add_library(limen::xsimd INTERFACE IMPORTED)
    target_include_directories(limen::xsimd SYSTEM INTERFACE "${LIMEN_XSIMD_INCLUDE_DIR}")
  endif()
endif()

find_path(LIMEN_RAPIDJSON_INCLUDE_DIR rapidjson/document.h)
mark_as_advanced(LIMEN_RAPIDJSON_INCLUDE_DIR)
if(NOT LIMEN_RAPIDJSON_INCLUDE_DIR)
  list(APPEND limen_missing "RapidJSON (LIMEN_RAPIDJSON_INCLUDE_DIR)")
elseif(NOT TARGET limen::rapidjson)
  add_library(limen::rapidjson INTERFACE IMPORTED)
  target_include_directories(limen::rapidjson SYSTEM INTERFACE "${LIMEN_RAPIDJSON_INCLUDE_DIR}")
endif()

list(JOIN limen_missing ", " limen_missing)

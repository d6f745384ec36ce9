# find_package(limen)                       one thread
# find_package(limen COMPONENTS OpenMP)     limen::limen is compiled with OpenMP

include("${CMAKE_CURRENT_LIST_DIR}/limenDependencies.cmake")
if(limen_missing)
  set(limen_FOUND FALSE)
  set(limen_NOT_FOUND_MESSAGE "limen needs ${limen_missing}")
  return()
endif()

if(NOT TARGET limen::limen)
  include("${CMAKE_CURRENT_LIST_DIR}/limenTargets.cmake")
endif()

foreach(limen_component IN LISTS limen_FIND_COMPONENTS)
  if(limen_component STREQUAL "OpenMP")
    include(CMakeFindDependencyMacro)
    find_dependency(OpenMP COMPONENTS CXX)
    target_link_libraries(limen::limen INTERFACE OpenMP::OpenMP_CXX)
    set(limen_OpenMP_FOUND TRUE)
  elseif(limen_FIND_REQUIRED_${limen_component})
    set(limen_FOUND FALSE)
    set(limen_NOT_FOUND_MESSAGE "limen has no component ${limen_component}")
  endif()
endforeach()

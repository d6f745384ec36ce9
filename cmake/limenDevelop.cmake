# limen_develop: what tests, benchmarks and examples of this repository are compiled with. Users of
# limen::limen get none of it.

include(CheckCXXCompilerFlag)

set(LIMEN_MARCH native CACHE STRING "-march of tests, benchmarks and examples; empty for none")

add_library(limen_develop INTERFACE)
target_link_libraries(limen_develop INTERFACE limen::limen)

if(LIMEN_MARCH)
  string(MAKE_C_IDENTIFIER "LIMEN_HAS_MARCH_${LIMEN_MARCH}" limen_has_march)
  check_cxx_compiler_flag(-march=${LIMEN_MARCH} ${limen_has_march})
  if(${limen_has_march})
    target_compile_options(limen_develop INTERFACE -march=${LIMEN_MARCH})
  else()
    message(WARNING "limen: this compiler does not know -march=${LIMEN_MARCH}")
  endif()
endif()

if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(
    limen_develop INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ warns inside its own AVX-512 headers and, at -O3, its own std::string (bug 105651);
  # -fpch-preprocess lets ccache see through a precompiled header.
  target_compile_options(limen_develop INTERFACE -Wno-maybe-uninitialized -Wno-uninitialized
                                                 -Wno-restrict -fpch-preprocess)
endif()

#pragma once
#include <cstddef>

/// How often this program has asked for memory so far, by whatever form of new or malloc.
std::size_t allocations();

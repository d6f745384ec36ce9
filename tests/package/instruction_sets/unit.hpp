#pragma once

/// What one unit computed, in types that all units share.
struct Result {
  const char* isa;
  float y[6 * 19];
};

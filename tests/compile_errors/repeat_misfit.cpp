// A layer that does not fit itself cannot stand twice in a row.
// expect: Repeat: a repeated layer must give as many numbers as it takes
// expect: takes<8>
// expect: gives<16>
#include <limen/compose/repeat.hpp>
#include <limen/nn/linear.hpp>

limen::Repeat<12, limen::Linear<limen::LinearConfig{.d_in = 8, .d_out = 16}>> model;

// Two equal exponentials have no difference.
// expect: Alpha: .alpha and .beta must be 0 < beta < alpha < 1
#include <limen/spiking/alpha.hpp>

limen::Alpha<limen::AlphaConfig{.d_model = 3, .alpha = 0.8, .beta = 0.8}> layer;

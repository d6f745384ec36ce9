// What comes out is fed back in.
// expect: Recurrent: the neuron must be as wide out as in
#include <limen/nn/gru.hpp>
#include <limen/spiking/recurrent.hpp>

limen::Recurrent<limen::Gru<limen::GruConfig{.d_in = 3, .d_hidden = 4}>> layer;

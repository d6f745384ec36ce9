// The laws for neurons that adapt, start their own spikes, or have gates, and for their soft twins.

#include <limen/spiking/alif.hpp>
#include <limen/spiking/eif.hpp>
#include <limen/spiking/glif.hpp>
#include <limen/spiking/plif.hpp>

#include <cmath>
#include <vector>

#include "laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG(
    "Alif keeps the laws of layers", "[spiking][alif][laws]", ((AlifConfig C), C),
    (AlifConfig{.d_model = 1}),
    (AlifConfig{.d_model = 17,
                .decay = 0.7,
                .threshold = 0.6,
                .adaptation_decay = 0.8,
                .adaptation = 0.4,
                .learn = Learned::each}),
    (AlifConfig{.d_model = 5,
                .decay = 0.8,
                .gain = 0.5,
                .threshold = 0.4,
                .adaptation_decay = 0.6,
                .adaptation = 0.7,
                .reset = Reset::to_value,
                .reset_to = -0.2,
                .when = When::now,
                .learn = Learned::together}),
    (AlifConfig{.d_model = 3, .decay = 0.6, .when = When::now, .learn = Learned::each})) {
  spiking::twin_keeps_the_laws<Alif<C, double, Soft{ArcTan{}}>>();
  spiking::keeps_the_laws<Alif<C>>();
}

TEMPLATE_TEST_CASE_SIG(
    "Eif, Qif and AdEx keep the laws of layers", "[spiking][eif][laws]", ((EifConfig C), C),
    (EifConfig{.d_model = 1, .tau = 4, .rest = -0.2}),
    (EifConfig{
        .d_model = 17, .onset = Onset::quadratic, .tau = 5, .rest = 0.1, .reset = Reset::subtract}),
    (EifConfig{.d_model = 6,
               .tau = 8,
               .gain = 2,
               .sharpness = 0.5,
               .adapts = true,
               .tau_w = 3,
               .pull = 0.5,
               .jump = 0.3})) {
  spiking::twin_keeps_the_laws<Eif<C, double, Soft{ArcTan{}}>>({.amplitude = 0.5});
  spiking::keeps_the_laws<Eif<C>>();
}

TEMPLATE_TEST_CASE_SIG("Glif keeps the laws of layers", "[spiking][glif][laws]",
                       ((GlifConfig C), C), (GlifConfig{.d_model = 1}),
                       (GlifConfig{.d_model = 17, .steps = 40}),
                       (GlifConfig{.d_model = 4, .steps = 30, .decay = 0.8})) {
  spiking::twin_keeps_the_laws<Glif<C, double, Soft{ArcTan{}}>>();
  spiking::keeps_the_laws<Glif<C>>();
}

#include <limen/nn/lstm.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Lstm keeps the laws of layers", "[nn][lstm][laws]", ((LstmConfig C), C),
                       (LstmConfig{.d_in = 1, .d_hidden = 1, .forget_bias = 1}),
                       (LstmConfig{.d_in = 2, .d_hidden = 3, .bias = false}),
                       (LstmConfig{.d_in = 3, .d_hidden = 17}),
                       (LstmConfig{.d_in = 5, .d_hidden = 32}),
                       (LstmConfig{.d_in = 2, .d_hidden = 70})) {
  laws::hold_in_double_and_float<Lstm<C>>({.most_slopes = 60});
}

#include <limen/attention/head_norm.hpp>
#include <limen/attention/multi_head_attention.hpp>

#include "../goldens/attention_normed.hpp"
#include "../goldens/golden.hpp"

using namespace limen;

namespace {
bool near(double a, double b) { return std::abs(a - b) < 1e-6; }
}  // namespace

TEST_CASE("Heads are brought to rms 1, length 1 or variance 1", "[attention][head_norm]") {
  const double ones[] = {1, 1}, twice[] = {2};
  double x[] = {3, 4}, r[2];
  const MatrixView<double> row{x, 1, 2, 2};
  detail::HeadNorm<QkNorm::rms, 2, double>{0, ones}.forward(row, r);
  REQUIRE(near(x[0], 0.848528));
  REQUIRE(near(x[1], 1.131371));
  x[0] = 3, x[1] = 4;
  detail::HeadNorm<QkNorm::l2, 2, double>{0, twice}.forward(row, r);
  REQUIRE(near(x[0], 1.2));
  REQUIRE(near(x[1], 1.6));
  REQUIRE(near(r[0], 5));
  x[0] = 3, x[1] = 4;
  detail::HeadNorm<QkNorm::layer, 2, double>{0, ones, ones}.forward(row, r);
  REQUIRE(near(x[0], 0));  // -1 + 1
  REQUIRE(near(x[1], 2));
}

TEST_CASE("A head of zeros has a norm and a slope", "[attention][head_norm]") {
  double x[] = {0, 0, 0}, dy[] = {1, 2, 3}, r[1];
  const detail::HeadNorm<QkNorm::l2, 3, double> norm{1e-6, nullptr};
  norm.forward({x, 1, 3, 3}, r);
  for (const double value : x) REQUIRE(value == 0);
  norm.backward({dy, 1, 3, 3}, {x, 1, 3, 3}, r, nullptr, nullptr);
  for (Index i = 0; i < 3; ++i) REQUIRE(near(dy[i] * 1e-6, static_cast<double>(i + 1)));
}

// The numbers: tests/goldens/attention.py, normed().
TEST_CASE("Attention with normed heads computes what PyTorch does", "[attention][golden]") {
  {
    namespace g = goldens::attention::normed_layer;
    constexpr AttentionConfig C{.d_model = 5,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .d_head = 4,
                                .capacity = 1,
                                .qk_norm = QkNorm::layer,
                                .norm_bias = true};
    golden::check_in_double_and_float<Attention<C>>({g::x, g::y, g::dy, g::dx},
                                                    {{g::q_weight, g::d_q_weight},
                                                     {g::k_weight, g::d_k_weight},
                                                     {g::v_weight, g::d_v_weight},
                                                     {g::o_weight, g::d_o_weight},
                                                     {g::q_norm, g::d_q_norm},
                                                     {g::q_norm_bias, g::d_q_norm_bias},
                                                     {g::k_norm, g::d_k_norm},
                                                     {g::k_norm_bias, g::d_k_norm_bias}},
                                                    1e-4);
  }
  {
    namespace g = goldens::attention::normed_l2;
    constexpr AttentionConfig C{.d_model = 6, .n_heads = 3, .capacity = 1, .qk_norm = QkNorm::l2};
    golden::check_in_double_and_float<Attention<C>>({g::x, g::y, g::dy, g::dx},
                                                    {{g::q_weight, g::d_q_weight},
                                                     {g::k_weight, g::d_k_weight},
                                                     {g::v_weight, g::d_v_weight},
                                                     {g::o_weight, g::d_o_weight},
                                                     {g::logit_scale, g::d_logit_scale}},
                                                    1e-4);
  }
}

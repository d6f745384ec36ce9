#include <limen/ssm/dsf.hpp>

#include <limen/core/random.hpp>
#include <limen/kernel/decay.hpp>
#include <limen/ssm/gated_linear_attention.hpp>
#include <limen/ssm/mamba2.hpp>
#include <limen/ssm/retnet.hpp>

#include <cmath>
#include <vector>

#include "matrix_state.hpp"

using namespace limen;

namespace {

using Numbers = std::vector<double>;

Numbers draw(Index n, std::uint64_t seed, double scale = 1) {
  Random random(seed);
  Numbers x(static_cast<std::size_t>(n));
  for (double& v : x) v = scale * random.normal();
  return x;
}

void same(const Numbers& got, const Numbers& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO(i << ": got " << got[i] << ", expected " << expected[i]);
    REQUIRE(std::abs(got[i] - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
  }
}

/// What head h of a layer read, [T][width].
Numbers head(MatrixView<const double> o, Index h, Index width) {
  Numbers y;
  for (Index t = 0; t < o.rows; ++t) {
    for (Index i = 0; i < width; ++i) y.push_back(o(t, h * width + i));
  }
  return y;
}

constexpr Index T = 70;  // across chunks

}  // namespace

TEST_CASE("The heads of Mamba2 are linear systems, and attention with another name",
          "[ssm][dsf][mamba2]") {
  using L = Mamba2<Mamba2Config{.d_model = 6, .d_state = 5, .head_dim = 3, .n_groups = 2}, double>;
  Random random(1);
  const auto layer = L::initialized(random);
  L::Cache c;
  forward(layer, matrix_state::noise<L>(T, 2), c);
  const auto u = c.u.matrix();
  const StateInputs<double> x{L::H,
                              L::G,
                              L::N,
                              L::P,
                              u.middle_cols(L::E + L::G * L::N, L::G * L::N),
                              u.middle_cols(L::E, L::G * L::N),
                              u.middle_cols(0, L::E),
                              c.a.matrix(),
                              c.delta.matrix()};
  for (Index h = 0; h < L::H; ++h) {
    const auto system = dsf::of_head(x, h, false);
    const Numbers values = dsf::values_of_head(x, h), y = head(c.y.matrix(), h, L::P);
    same(dsf::apply(system, values), y, 1e-12);
    REQUIRE(dsf::has_one_decay(system));
    same(dsf::attend(system, dsf::as_attention(system), values), y, 1e-12);
  }
}

TEST_CASE("Retention is a linear system with one decay", "[ssm][dsf][retnet]") {
  using L = RetNet<RetNetConfig{.d_model = 8, .n_heads = 2}, double>;
  Random random(1);
  const auto layer = L::initialized(random);
  L::Cache c;
  forward(layer, matrix_state::noise<L>(T, 2), c);
  const StateInputs<double> x{L::H,         L::H,
                              L::K,         L::V,
                              c.q.matrix(), c.k.matrix(),
                              c.v.matrix(), {L::gamma.data(), T, L::H, 0},
                              {},           1 / std::sqrt(double(L::K))};
  for (Index h = 0; h < L::H; ++h) {
    const auto system = dsf::of_head(x, h, false);
    const Numbers values = dsf::values_of_head(x, h), y = head(c.o.matrix(), h, L::V);
    same(dsf::apply(system, values), y, 1e-12);
    same(dsf::attend(system, dsf::as_attention(system), values), y, 1e-12);
  }
}

TEST_CASE("Gated linear attention is a linear system, but not attention with one normaliser",
          "[ssm][dsf][gated_linear_attention]") {
  using L =
      GatedLinearAttention<GatedLinearAttentionConfig{.d_model = 8, .n_heads = 2, .gate_rank = 2},
                           double>;
  Random random(1);
  const auto layer = L::initialized(random);
  L::Cache c;
  forward(layer, matrix_state::noise<L>(T, 2), c);
  const StateInputs<double> x{
      L::H,         L::H,         L::K,         L::V, c.q.matrix(),
      c.k.matrix(), c.v.matrix(), c.a.matrix(), {},   1 / std::sqrt(double(L::K))};
  for (Index h = 0; h < L::H; ++h) {
    const auto system = dsf::of_head(x, h, true);
    const Numbers values = dsf::values_of_head(x, h);
    same(dsf::apply(system, values), head(c.o.matrix(), h, L::V), 1e-12);
    REQUIRE_FALSE(dsf::has_one_decay(system));
  }
}

TEST_CASE("Attention with a normaliser of its own pace is a selective state space", "[ssm][dsf]") {
  // y_i = φ_i · Σ ψ_j u_j / η_i as a sum over pairs, as a system, and by the kernel of Mamba-2 with
  // a = η_{i-1} / η_i, k = ψ / η, q = φ.  η grows beyond what a double holds.
  constexpr Index N = 4, d = 3;
  const Numbers phi = draw(T * N, 1), psi = draw(T * N, 2), u = draw(T * d, 3);
  Numbers log_eta;
  for (const double w : draw(T, 4))
    log_eta.push_back((log_eta.empty() ? 0 : log_eta.back()) + w * w);
  Numbers expected(u.size());
  for (Index i = 0; i < T; ++i) {
    for (Index j = 0; j <= i; ++j) {
      double score = 0;
      for (Index n = 0; n < N; ++n) {
        score +=
            phi[static_cast<std::size_t>(i * N + n)] * psi[static_cast<std::size_t>(j * N + n)];
      }
      score *= std::exp(-log_eta[static_cast<std::size_t>(i)]);
      for (Index c = 0; c < d; ++c) {
        expected[static_cast<std::size_t>(i * d + c)] +=
            score * u[static_cast<std::size_t>(j * d + c)];
      }
    }
  }
  const auto system = dsf::normalised_attention(T, N, d, phi, psi, log_eta);
  same(dsf::apply(system, u), expected, 1e-12);

  Numbers a, k = system.write, y(u.size());
  for (Index t = 0; t < T; ++t) a.push_back(system.lambda(t, 0, 0));
  const StateInputs<double> x{1,
                              1,
                              N,
                              d,
                              {phi.data(), T, N, N},
                              {k.data(), T, N, N},
                              {u.data(), T, d, d},
                              {a.data(), T, 1, 1}};
  ssd(x, Batch<Fixed<double, N * d>>(), MatrixView<double>{y.data(), T, d, d});
  same(y, expected, 1e-12);
}

TEST_CASE("The decay of a selective state space is a power of a reversed sigmoid", "[ssm][dsf]") {
  // exp(-e^(A_log) softplus(x)) = σ(-x)^(e^(A_log)): the forget gate of a recurrent network.
  const Numbers x = draw(64, 5, 4), A_log = draw(64, 6), bias(64);
  Numbers delta(64), a(64);
  step_decay<double>({x.data(), 1, 64, 64}, bias.data(), A_log.data(), {0, 1e300},
                     {delta.data(), 1, 64, 64}, {a.data(), 1, 64, 64});
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double gate = 1 / (1 + std::exp(x[i]));
    REQUIRE(std::abs(a[i] - std::pow(gate, std::exp(A_log[i]))) < 1e-14);
  }
}

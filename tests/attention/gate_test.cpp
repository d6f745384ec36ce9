#include <limen/attention/multi_head_attention.hpp>

#include "../laws.hpp"

using namespace limen;
using enum GatePosition;

namespace {

constexpr AttentionConfig with(Gate gate, QkNorm norm = QkNorm::none) {
  return {.d_model = 6,
          .n_heads = 4,
          .n_kv_heads = 2,
          .d_head = 3,
          .capacity = 64,
          .qk_norm = norm,
          .gate = gate};
}

constexpr auto silu = Activation::silu;
constexpr AttentionConfig headwise = with({.position = G1, .headwise = true, .bias = true});
constexpr AttentionConfig values =
    with({.position = G2, .shared = true, .bias = true, .activation = silu});
constexpr AttentionConfig keys = with({.position = G3, .least = 0.5}, QkNorm::rms);
constexpr AttentionConfig queries =
    with({.position = G4, .additive = true, .activation = silu}, QkNorm::rms);
constexpr AttentionConfig output = with({.position = G5});
constexpr AttentionConfig constant = with({.position = G1, .from_input = false});

}  // namespace

TEMPLATE_TEST_CASE_SIG("Gates at all positions keep the laws of layers", "[attention][gate][laws]",
                       ((AttentionConfig C), C), (headwise), (values), (keys), (queries), (output),
                       (constant)) {
  static_assert(check::names_every_member<Attention<C>>);
  Random random(1);
  laws::hold(Attention<C, double>::initialized(random), {.state_has_slope = false});
}

namespace {

/// u [rows][heads][d] of the layer as its gate leaves it, if that stands at P.
template <GatePosition P, AttentionConfig C, Index N>
void gate_plainly(const Attention<C, double>& layer, const Sequence<double, 6>& x, Index heads,
                  Sequence<double, N>& u) {
  if constexpr (C.gate.at(P)) {
    Sequence<double, Attention<C, double>::G> z;
    if constexpr (C.gate.from_input) z = linear(x, layer.gate_proj, data_or_null(layer.gate_bias));
    const Index d = N / heads;
    for (Index t = 0; t < x.rows(); ++t) {
      const auto g = [&](Index h, Index c) {
        const Index i = C.gate.headwise ? h : h * d + c;
        double score = 0;
        if constexpr (C.gate.from_input) score = z(t, i);
        if constexpr (!C.gate.from_input) score = layer.gate[i];
        double a = 1 / (1 + std::exp(-score));
        if (C.gate.activation == silu) a *= score;
        return Attention<C>::config.gate.least * (1 - a) + a;
      };
      for (Index h = 0; h < heads; ++h) {
        for (Index c = 0; c < d; ++c) {
          double mean = 0;
          for (Index i = 0; i < heads; ++i) mean += g(i, c) / static_cast<double>(heads);
          const double by = C.gate.shared ? mean : g(h, c);
          double& value = u(t, h * d + c);
          value = C.gate.additive ? value + by : value * by;
        }
      }
    }
  }
}

template <AttentionConfig C, Index N>
void norm_plainly(const double* w, Sequence<double, N>& u) {
  constexpr Index d = C.d_head;
  for (Index i = 0; C.qk_norm != QkNorm::none && i < u.size(); i += d) {
    double mean = Attention<C>::config.norm_eps;
    for (Index c = 0; c < d; ++c) mean += u.data()[i + c] * u.data()[i + c] / d;
    for (Index c = 0; c < d; ++c) u.data()[i + c] *= w[c] / std::sqrt(mean);
  }
}

template <AttentionConfig C>
void check_place() {
  using L = Attention<C, double>;
  constexpr Index H = L::H, K = L::K, d = L::d;
  Random random(3);
  auto layer = L::initialized(random);
  for_each_tensor(
      [&](auto& tensor) {
        for (double& v : tensor.flat()) v += 0.3 * random.normal();
      },
      layer);
  Sequence<double, 6> x(5);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  auto q = linear(x, layer.q_proj);
  auto k = linear(x, layer.k_proj), v = linear(x, layer.v_proj);
  gate_plainly<G4>(layer, x, H, q);
  gate_plainly<G3>(layer, x, K, k);
  gate_plainly<G2>(layer, x, K, v);
  norm_plainly<C>(data_or_null(layer.q_norm), q);
  norm_plainly<C>(data_or_null(layer.k_norm), k);
  auto o = Sequence<double, H * d>::zeros(5);
  for (Index t = 0; t < 5; ++t) {
    for (Index h = 0; h < H; ++h) {
      const Index at = h * K / H * d;
      double sum = 0;
      for (Index j = 0; j <= t; ++j) {
        double s = 0;
        for (Index c = 0; c < d; ++c) s += q(t, h * d + c) * k(j, at + c);
        s = std::exp(s / std::sqrt(double(d)));
        sum += s;
        for (Index c = 0; c < d; ++c) o(t, h * d + c) += s * v(j, at + c);
      }
      for (Index c = 0; c < d; ++c) o(t, h * d + c) /= sum;
    }
  }
  gate_plainly<G1>(layer, x, H, o);
  auto expected = linear(o, layer.o_proj);
  gate_plainly<G5>(layer, x, 1, expected);
  const auto y = forward(layer, x);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(y.data()[i] - expected.data()[i]) < 1e-12);
  }
}

}  // namespace

TEST_CASE("A gate stands where its position says", "[attention][gate]") {
  check_place<headwise>();
  check_place<values>();
  check_place<keys>();
  check_place<queries>();
  check_place<output>();
  check_place<constant>();
}

namespace {

/// Two rows of two heads; `width` numbers of z in a row.
template <Gate G>
void check_slopes(Index width) {
  constexpr Index T = 2, H = 2, d = 5;
  Random random(2);
  std::vector<double> z(static_cast<std::size_t>(T * width)), u(T * H * d), r(u.size()),
      y(u.size()), du(u.size()), dz(z.size());
  for (auto* x : {&z, &u, &r}) {
    for (double& value : *x) value = random.normal();
  }
  const auto rows = [](std::vector<double>& x) {
    return MatrixView<double>{x.data(), T, H * d, H * d};
  };
  const auto loss = [&] {
    head_gate<G>(z.data(), width, H, rows(u), rows(y));
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += r[i] * y[i];
    return sum;
  };
  head_gate_backward<G>(z.data(), width, H, rows(u), rows(r), rows(du), dz.data());
  const auto same = [&](std::vector<double>& x, const std::vector<double>& dx) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double before = x[i], h = 1e-6;
      x[i] = before + h;
      const double above = loss();
      x[i] = before - h;
      const double below = loss();
      x[i] = before;
      REQUIRE(std::abs((above - below) / (2 * h) - dx[i]) < 1e-8);
    }
  };
  same(u, du);
  same(z, dz);
}

template <Activation A, int halves>
void check_kinds() {
  constexpr double least = halves / 2.0;
  constexpr Gate multiplied{.activation = A, .least = least};
  constexpr Gate added{.additive = true, .activation = A, .least = least};
  constexpr Gate headwise_multiplied{.headwise = true, .activation = A, .least = least};
  constexpr Gate headwise_added{
      .headwise = true, .additive = true, .activation = A, .least = least};
  constexpr Gate shared_multiplied{.shared = true, .activation = A, .least = least};
  constexpr Gate shared_added{.shared = true, .additive = true, .activation = A, .least = least};
  check_slopes<multiplied>(10);
  check_slopes<added>(10);
  check_slopes<headwise_multiplied>(2);
  check_slopes<headwise_added>(2);
  check_slopes<shared_multiplied>(10);
  check_slopes<shared_added>(10);
}

}  // namespace

TEST_CASE("The way back through a gate is its slope, for every kind", "[attention][gate]") {
  check_kinds<Activation::sigmoid, 0>();
  check_kinds<Activation::silu, 0>();
  check_kinds<Activation::sigmoid, 1>();
  check_kinds<Activation::identity, 0>();
}

TEST_CASE("A gate multiplies by the sigmoid of its scores", "[attention][gate]") {
  const double ln3 = std::log(3.0);
  const double o[] = {1, 2, 2.339523, 3.339523}, z[] = {0, ln3, -ln3, 0};
  double y[4], dy[] = {1, 1, 1, 1}, du[4], dz[4];
  const MatrixView<const double> rows{o, 2, 2, 2};
  const auto near = [](const double* got, std::initializer_list<double> expected) {
    for (const double e : expected) REQUIRE(std::abs(*got++ - e) < 1e-6);
  };
  constexpr Gate elementwise{}, per_head{.headwise = true};
  head_gate<elementwise>(z, 2, 1, rows, MatrixView<double>{y, 2, 2, 2});
  near(y, {0.5, 1.5, 0.584881, 1.669762});
  head_gate_backward<elementwise>(z, 2, 1, rows, MatrixView<const double>{dy, 2, 2, 2},
                                  MatrixView<double>{du, 2, 2, 2}, dz);
  near(dz, {0.25, 0.375, 0.438661, 0.834881});
  near(du, {0.5, 0.75, 0.25, 0.5});
  head_gate<per_head>(z, 1, 1, rows, MatrixView<double>{y, 2, 2, 2});  // z of the rows: 0 and ln 3
  near(y, {0.5, 1, 1.754642, 2.504642});
}

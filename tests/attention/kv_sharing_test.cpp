#include <limen/attention/kv_sharing.hpp>

#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/kernel/attention_backward.hpp>

#include <cmath>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index H = 2, K = 1, d = 3;
constexpr StreamLayout layout{.text = 2, .frames = 2, .cells = 3};
constexpr Index T = layout.rows();

struct Streams {
  std::vector<double> q[2], k[2], v[2], y[2];
  AttentionCall<double> call[2];

  Streams() {
    Random random(3);
    for (std::size_t s = 0; s < 2; ++s) {
      for (Index i = 0; i < T * H * d; ++i) q[s].push_back(random.normal());
      for (Index i = 0; i < T * K * d; ++i) {
        k[s].push_back(random.normal());
        v[s].push_back(random.normal());
      }
      y[s].resize(q[s].size());
      call[s].q = {q[s].data(), T, H * d, H * d};
      call[s].k = {k[s].data(), T, K * d, K * d};
      call[s].v = {v[s].data(), T, K * d, K * d};
      call[s].y = {y[s].data(), T, H * d, H * d};
    }
  }
};

AttentionRule<double> rule() {
  AttentionRule<double> r;
  r.query_heads = H;
  r.key_heads = K;
  return r;
}

/// Row i, head h of one stream's queries against another's keys, those that `see` lets through.
template <class See>
std::vector<double> read(const Streams& s, std::size_t of, Index i, Index h, See see) {
  std::vector<double> y(d);
  double sum = 0;
  for (Index j = 0; j < T; ++j) {
    if (!see(j)) continue;
    double dot = 0;
    for (Index c = 0; c < d; ++c) {
      dot += s.call[of].q.row(i)[h * d + c] * s.call[0].k.row(j)[c];
    }
    const double p = std::exp(dot / std::sqrt(3.0));
    sum += p;
    for (Index c = 0; c < d; ++c) {
      y[static_cast<std::size_t>(c)] += p * s.call[0].v.row(j)[c];
    }
  }
  for (double& value : y) value /= sum;
  return y;
}

}  // namespace

TEST_CASE("A target that shares by masks is the blend of two masked attentions",
          "[attention][sharing]") {
  Streams s;
  const std::vector<std::uint8_t> source{1, 0, 0, 1, 1, 0}, target{0, 0, 1, 1, 0, 1};
  const auto keep = shared_keep(layout, source, target);
  auto call = with_keys_of(s.call[0], s.call[1]);
  call.keep = keep.data();
  attention<double>(rule(), std::span(&call, 1));
  for (Index i = 0; i < T; ++i) {
    for (Index h = 0; h < H; ++h) {
      const auto part = [&](bool front) {
        return read(s, 1, i, h, [&](Index j) {
          return i < layout.text || j < layout.text ||
                 (source[static_cast<std::size_t>(j - layout.text)] == 1) == front;
        });
      };
      const auto fg = part(true), bg = part(false);
      const double M = i >= layout.text ? target[static_cast<std::size_t>(i - layout.text)] : 0.5;
      for (std::size_t c = 0; c < d; ++c) {
        const double expected = M * fg[c] + (1 - M) * bg[c];
        REQUIRE(std::abs(call.y.row(i)[h * d + static_cast<Index>(c)] - expected) < 1e-12);
      }
    }
  }
}

TEST_CASE("The gradient of a target reaches the keys and values of its source",
          "[attention][sharing]") {
  Streams s;
  const std::vector<std::uint8_t> source{1, 0, 0, 1, 1, 0}, target{0, 0, 1, 1, 0, 1};
  const auto keep = shared_keep(layout, source, target);
  std::vector<double> lse(T * H), r(T * H * d), dq(T * H * d), dk(T * K * d), dv(T * K * d);
  Random random(5);
  for (double& value : r) value = random.normal();
  const auto loss = [&] {
    auto call = with_keys_of(s.call[0], s.call[1]);
    call.keep = keep.data();
    call.lse = lse.data();
    attention<double>(rule(), std::span(&call, 1));
    double sum = 0;
    for (std::size_t i = 0; i < r.size(); ++i) sum += r[i] * s.y[1][i];
    return sum;
  };
  loss();
  AttentionGradient<double> g;
  g.call = with_keys_of(s.call[0], s.call[1]);
  g.call.keep = keep.data();
  g.call.lse = lse.data();
  g.dy = {r.data(), T, H * d, H * d};
  g.dq = {dq.data(), T, H * d, H * d};
  g.dk = {dk.data(), T, K * d, K * d};
  g.dv = {dv.data(), T, K * d, K * d};
  attention_backward<double>(rule(), std::span(&g, 1));
  const auto check = [&](std::vector<double>& x, const std::vector<double>& slopes) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double before = x[i];
      x[i] = before + 1e-6;
      const double above = loss();
      x[i] = before - 1e-6;
      const double below = loss();
      x[i] = before;
      REQUIRE(std::abs((above - below) / 2e-6 - slopes[i]) < 1e-7);
    }
  };
  check(s.q[1], dq);
  check(s.k[0], dk);
  check(s.v[0], dv);
}

TEST_CASE("A map is the mean over heads of what tokens get, and of each frame its own",
          "[attention][sharing]") {
  Streams s;
  const Index tokens[] = {1};
  TokenMap map(layout);
  map.add(rule(), s.call[0], tokens);
  REQUIRE(map.layers() == 1);
  const auto maps = attention_maps<double>(rule(), std::span(&s.call[0], 1));
  double m[6];
  for (Index i = 0; i < 6; ++i) m[i] = (maps(0, 0).row(2 + i)[1] + maps(0, 1).row(2 + i)[1]) / 2;
  for (const double threshold : {0.05, 0.3, 0.7, 0.95}) {
    const auto got = map.foreground(threshold);
    for (Index i = 0; i < 6; ++i) {
      const double* const frame = m + i / 3 * 3;
      const double low = *std::min_element(frame, frame + 3);
      const double high = *std::max_element(frame, frame + 3);
      const bool front = (m[i] - low) / (high - low + 1e-6) >= threshold;
      REQUIRE(got[static_cast<std::size_t>(i)] == (front ? 1 : 0));
    }
  }
  const auto once = map.foreground(0.3);
  map.add(rule(), s.call[0], tokens);
  REQUIRE(map.layers() == 2);  // the mean over layers
  REQUIRE(map.foreground(0.3) == once);
  map.restart();
  for (const auto cell : map.foreground(0.3)) REQUIRE(cell == 0);
  const Index beyond[] = {2};
  REQUIRE_THROWS_WITH(map.add(rule(), s.call[0], beyond), "token of a map: wanted 0 to 1, found 2");
}

TEST_CASE("A model shares keys through its Context, in the layers and runs that should",
          "[attention][sharing]") {
  constexpr AttentionConfig C{.d_model = 4, .n_heads = 2, .causal = false};
  using Model = Repeat<2, Residual<Attention<C, double>>>;
  Random random(6);
  const auto model = Model::initialized(random);
  Sequence<double, 4> x(2 * T);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const Index offsets[] = {0, T, 2 * T};
  SharedKeys share({.layout = layout, .masked = false, .first_layer = 1});
  Context run{.attention = &share};
  const auto alone = model.forward(x, from_rest(offsets));
  const auto y = model.forward(x, from_rest(offsets, &run));
  const auto rows = [&](const Sequence<double, 4>& a, const Sequence<double, 4>& b, Index first) {
    double most = 0;
    for (Index t = first; t < first + T; ++t) {
      for (Index c = 0; c < 4; ++c) most = std::max(most, std::abs(a(t, c) - b(t, c)));
    }
    return most;
  };
  REQUIRE(rows(y, alone, 0) < 1e-12);  // the source goes its way
  REQUIRE(rows(y, alone, T) > 1e-3);
  // The target by hand: the second layer with its queries and the keys of the source.
  const auto middle = model.layers[0].forward(x, from_rest(offsets));
  const auto& second = model.layers[1].inner;
  const auto q = linear(middle, second.q_proj), k = linear(middle, second.k_proj),
             v = linear(middle, second.v_proj);
  AttentionCall<double> call;
  Sequence<double, 4> o(T);
  call.q = q.matrix().middle_rows(T, T);
  call.k = k.matrix().middle_rows(0, T);
  call.v = v.matrix().middle_rows(0, T);
  call.y = o.matrix();
  AttentionRule<double> two;
  two.query_heads = two.key_heads = 2;
  attention<double>(two, std::span(&call, 1));
  const auto expected = linear(o, second.o_proj);
  for (Index t = 0; t < T; ++t) {
    for (Index c = 0; c < 4; ++c) {
      REQUIRE(std::abs(y(T + t, c) - middle(T + t, c) - expected(t, c)) < 1e-12);
    }
  }
  share.restart();
  share.active = false;
  REQUIRE(rows(model.forward(x, from_rest(offsets, &run)), alone, T) < 1e-12);
  // And no layer behind the last that shares.
  const SharedKeysConfig only_first{.layout = layout, .masked = false, .last_layer = 0};
  SharedKeys early(only_first), one(only_first);
  Context early_run{.attention = &early}, one_run{.attention = &one};
  const auto shared = model.layers[0].forward(x, from_rest(offsets, &one_run));
  REQUIRE(rows(shared, middle, T) > 1e-3);
  REQUIRE(rows(model.forward(x, from_rest(offsets, &early_run)),
               model.layers[1].forward(shared, from_rest(offsets)), T) < 1e-12);
  share.active = true;
  share.restart();
  const Index odd[] = {0, T, T, 2 * T};
  REQUIRE_THROWS_WITH(model.forward(x, from_rest(odd, &run)),
                      "sequences that share keys: wanted pairs of source and target, found 3");
}

TEST_CASE("Masks of a model come from all layers so far", "[attention][sharing]") {
  constexpr AttentionConfig C{.d_model = 4, .n_heads = 2, .causal = false};
  using Model = Repeat<2, Residual<Attention<C, double>>>;
  Random random(7);
  const auto model = Model::initialized(random);
  Sequence<double, 4> x(4 * T);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  const Index offsets[] = {0, T, 2 * T, 3 * T, 4 * T};
  SharedKeys share({.layout = layout, .source_tokens = {0}, .target_tokens = {1}});
  Context run{.attention = &share};
  const auto y = model.forward(x, from_rest(offsets, &run));
  share.restart();
  const auto again = model.forward(x, from_rest(offsets, &run));
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == again.data()[i]);
  const auto more = model.forward(x, from_rest(offsets, &run));  // maps of two runs
  double most = 0;
  for (Index i = 0; i < y.size(); ++i)
    most = std::max(most, std::abs(y.data()[i] - more.data()[i]));
  REQUIRE(std::isfinite(most));
}

TEST_CASE("Pieces that overlap are weighed by a triangle", "[attention][sharing]") {
  OverlapAdd<double> all(6, 1, 4);
  const double expected[] = {0.25, 0.75, 0.75, 0.25};
  for (Index k = 0; k < 4; ++k) REQUIRE(all.weight(k) == expected[k]);
  const double ones[] = {1, 1, 1, 1}, fives[] = {5, 5, 5, 5};
  all.add(0, {ones, 4, 1, 1});
  double y[6];
  const MatrixView<double> to{y, 6, 1, 1};
  const auto early = all.finish(to);
  REQUIRE_FALSE(static_cast<bool>(early));
  REQUIRE(early.error().message() ==
          "pieces of a long sequence: wanted every frame covered, found none at frame 4");
  all.add(2, {fives, 4, 1, 1});
  all.finish(to).value();
  const double blended[] = {1, 1, 2, 4, 5, 5};  // (.75 + .25 · 5) / 1, (.25 + .75 · 5) / 1
  for (Index i = 0; i < 6; ++i) REQUIRE(std::abs(y[i] - blended[i]) < 1e-12);
  REQUIRE_THROWS_WITH(
      all.add(3, {ones, 4, 1, 1}),
      "piece of a long sequence: wanted 4 x 1 within 6 frames, found 4 x 1 at frame 3");
}

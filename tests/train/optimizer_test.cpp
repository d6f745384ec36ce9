#include <limen/train/adamw.hpp>
#include <limen/train/average.hpp>
#include <limen/train/clip.hpp>
#include <limen/train/lion.hpp>
#include <limen/train/muon.hpp>
#include <limen/train/sgd.hpp>

#include <limits>

#include "../goldens/golden.hpp"
#include "../goldens/train_optimizers.hpp"

using namespace limen;
using golden::Numbers;
using golden::same;

namespace {

/// A matrix, which decays, and a vector, which does not.
template <Index O, Index I, class Real = double>
struct Pair {
  Tensor<Real, O, I> matrix;
  Tensor<Real, O> vector;
  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("matrix", l.matrix...);
    f("vector", l.vector...);
  }
};

void copy(Numbers from, std::size_t first, auto& tensor) {
  using Real = typename std::remove_cvref_t<decltype(tensor)>::Scalar;
  for (Index i = 0; i < tensor.size; ++i) {
    tensor[i] = static_cast<Real>(from[first + static_cast<std::size_t>(i)]);
  }
}

/// The given gradients in turn, then the parameters against those of PyTorch.
template <Index O, Index I, class Real, class Make>
void follow(Make make, Numbers matrix, Numbers vector, Numbers d_matrix, Numbers d_vector,
            Numbers last_matrix, Numbers last_vector, double tolerance) {
  using M = Pair<O, I, Real>;
  M model, gradient;
  copy(matrix, 0, model.matrix);
  copy(vector, 0, model.vector);
  auto optimizer = make(model);
  for (std::size_t t = 0; t * O < d_vector.size(); ++t) {
    copy(d_matrix, t * O * I, gradient.matrix);
    copy(d_vector, t * O, gradient.vector);
    optimizer.update(model, gradient);
  }
  same("matrix", model.matrix.flat(), last_matrix, tolerance);
  same("vector", model.vector.flat(), last_vector, tolerance);
}

#define FOLLOWS(name, O, I, ...)                                                               \
  {                                                                                            \
    namespace g = goldens::optimizers::name;                                                   \
    INFO(#name);                                                                               \
    const auto make = [](auto& model) {                                                        \
      using M = std::remove_reference_t<decltype(model)>;                                      \
      return __VA_ARGS__;                                                                      \
    };                                                                                         \
    follow<O, I, double>(make, g::matrix, g::vector, g::d_matrix, g::d_vector, g::last_matrix, \
                         g::last_vector, 1e-10);                                               \
    follow<O, I, float>(make, g::matrix, g::vector, g::d_matrix, g::d_vector, g::last_matrix,  \
                        g::last_vector, 2e-5);                                                 \
  }

}  // namespace

TEST_CASE("Optimizers go where PyTorch's go", "[train][optimizer][golden]"){
    FOLLOWS(sgd, 5, 3, Sgd<M>({.rate = 0.1, .decay = 0.01}))
        FOLLOWS(momentum, 5, 3, Sgd<M>({.rate = 0.1, .momentum = 0.9, .decay = 0.01}))
            FOLLOWS(nesterov, 3, 7,
                    Sgd<M>({.rate = 0.1, .momentum = 0.9, .decay = 0.01, .nesterov = true}))
                FOLLOWS(adamw, 5, 3, AdamW<M>({.rate = 0.03, .decay = 0.1}))
                    FOLLOWS(lion, 5, 3, Lion<M>({.rate = 0.03, .decay = 0.1}))
                        FOLLOWS(muon_tall, 5, 3, Muon<M>({.decay = 0.1}))
                            FOLLOWS(muon_wide, 3, 11, Muon<M>({.decay = 0.1}))}

TEST_CASE("The first step of each, by hand", "[train][optimizer]") {
  using M = Pair<1, 1>;
  M start, gradient;
  start.matrix[0] = start.vector[0] = 1;
  gradient.matrix[0] = 0.5;
  gradient.vector[0] = 0;
  const auto step = [&](auto optimizer, double factor = 1) {
    M model = start;
    optimizer.update(model, gradient, factor);
    REQUIRE(model.vector[0] == 1);  // no gradient, no decay
    return model.matrix[0];
  };
  REQUIRE(step(AdamW<M>({.rate = 0.1, .decay = 0.01})) == Approx(0.899000002).epsilon(1e-12));
  REQUIRE(step(Lion<M>({.rate = 0.1, .decay = 0.01})) == Approx(0.899).epsilon(1e-12));
  REQUIRE(step(Sgd<M>({.rate = 0.1, .momentum = 0.9})) == Approx(0.95).epsilon(1e-12));
  REQUIRE(step(Sgd<M>({.rate = 0.1}), 0.5) == Approx(0.975).epsilon(1e-12));
}

TEST_CASE("Lion does not move where the sign is 0", "[train][lion]") {
  using M = Pair<1, 3, float>;
  M model, gradient;
  gradient.matrix[1] = 1e-30F;
  Lion<M> optimizer({.rate = 0.25, .decay = 0});
  optimizer.update(model, gradient);
  REQUIRE(model.matrix[0] == 0);
  REQUIRE(model.matrix[1] == -0.25F);
}

TEST_CASE("Newton-Schulz brings singular values near 1", "[train][muon]") {
  const auto run = [](std::vector<double> x, Index rows, Index cols, int steps) {
    newton_schulz<double>({x.data(), rows, cols, cols}, steps);
    return x;
  };
  const auto near = [](const std::vector<double>& got, const std::vector<double>& wanted) {
    REQUIRE(got.size() == wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(std::abs(got[i] - wanted[i]) < 1e-6);
  };
  near(run({3, 0, 0, 4}, 2, 2, 1), {1.193269, 0, 0, 0.976482});
  near(run({3, 0, 0, 4}, 2, 2, 5), {0.722876, 0, 0, 1.119204});
  near(run({300, 0, 0, 400}, 2, 2, 5), {0.722876, 0, 0, 1.119204});  // only directions count
  near(run({1, 2, 3, 4, 5, 6}, 2, 3, 5),
       {-0.568290, 0.057742, 0.683774, 0.563355, 0.405613, 0.247871});
  near(run({1, 4, 2, 5, 3, 6}, 3, 2, 5),
       {-0.568290, 0.563355, 0.057742, 0.405613, 0.683774, 0.247871});
  near(run({0, 0, 0, 0}, 2, 2, 5), {0, 0, 0, 0});
}

TEST_CASE("Muon leaves named matrices and vectors to AdamW", "[train][muon]") {
  using M = Pair<2, 2>;
  M a, b, gradient;
  for (double& g : gradient.matrix.flat()) g = 1;
  for (double& g : gradient.vector.flat()) g = -1;
  Muon<M>({.adamw = {"matrix"}, .others = {.rate = 0.1, .decay = 0}}).update(a, gradient);
  AdamW<M>({.rate = 0.1, .decay = 0}).update(b, gradient);
  REQUIRE(a.matrix == b.matrix);
  REQUIRE(a.vector == b.vector);
}

TEST_CASE("What is frozen does not move, what is undecayed does not shrink", "[train][optimizer]") {
  using M = Pair<2, 2>;
  M start, gradient;
  for (double& w : start.matrix.flat()) w = 1;
  for (double& w : start.vector.flat()) w = 1;
  const auto both = [&](auto make) {
    M frozen = start, kept = start;
    for (double& g : gradient.matrix.flat()) g = 1;
    make(ParameterRules{.frozen = {"matrix"}, .decay_vectors = true}).update(frozen, gradient);
    REQUIRE(frozen.matrix == start.matrix);
    REQUIRE(frozen.vector[0] < 1);  // only by decay
    set_zero(gradient);
    make(ParameterRules{.undecayed = {"matrix"}}).update(kept, gradient);
    REQUIRE(kept.matrix == start.matrix);
    REQUIRE(kept.vector == start.vector);
  };
  both([](ParameterRules r) { return Sgd<M>({.decay = 0.1, .rules = std::move(r)}); });
  both([](ParameterRules r) { return AdamW<M>({.decay = 0.1, .rules = std::move(r)}); });
  both([](ParameterRules r) { return Lion<M>({.decay = 0.1, .rules = std::move(r)}); });
  both([](ParameterRules r) {
    return Muon<M>({.decay = 0.1, .others = {.decay = 0.1}, .rules = std::move(r)});
  });
}

TEST_CASE("Names are compared by whole words", "[train][optimizer]") {
  REQUIRE(name_contains("net.blocks.0.weight", "blocks.0"));
  REQUIRE(name_contains("embedding", "embedding"));
  REQUIRE(name_contains("a.xb.b", "b"));
  REQUIRE_FALSE(name_contains("net.blocks.01.weight", "blocks.0"));
  REQUIRE_FALSE(name_contains("overhead.weight", "head"));
  REQUIRE(name_contains("head.weight", std::vector<std::string>{"x", "head"}));
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Options that make no sense are refused by name", "[train][optimizer]") {
  using M = Pair<1, 1>;
  const auto refused = [](auto make) {
    try {
      make();
    } catch (const Exception& e) {
      return e.error.who;
    }
    return std::string("fine");
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(refused([] { Sgd<M>({.rate = -1}); }) == "Sgd: .rate");
  REQUIRE(refused([] { Sgd<M>({.momentum = 1}); }) == "Sgd: .momentum");
  REQUIRE(refused([] { AdamW<M>({.beta1 = 1}); }) == "AdamW: .beta1");
  REQUIRE(refused([&] { AdamW<M>({.beta2 = nan}); }) == "AdamW: .beta2");
  REQUIRE(refused([] { AdamW<M>({.epsilon = -1e-9}); }) == "AdamW: .epsilon");
  REQUIRE(refused([] { Lion<M>({.beta2 = -0.1}); }) == "Lion: .beta2");
  REQUIRE(refused([] { Muon<M>({.others = {.rate = -1}}); }) == "AdamW: .rate");
  REQUIRE(refused([] { Average<M>(M(), 1); }) == "Average: decay");
  REQUIRE(refused([] { AdamW<M>({.rules = {.frozen = {"matrx"}}}); }) == "ParameterRules: .frozen");
  REQUIRE(refused([] { Sgd<M>({.rules = {.undecayed = {"gain"}}}); }) ==
          "ParameterRules: .undecayed");
}
#endif

TEST_CASE("Large tensors are cut into pieces that change nothing", "[train][optimizer]") {
  using Large = Pair<190, 271, float>;  // more than three pieces, the last one ragged
  const auto run = [](int threads) {
    const Threads allowed(threads);
    Large model, gradient;
    for (Index i = 0; i < model.matrix.size; ++i) {
      model.matrix[i] = static_cast<float>(i % 17) / 16;
      gradient.matrix[i] = static_cast<float>(i % 13) - 6;
    }
    AdamW<Large> adamw({.rate = 0.01});
    Sgd<Large> sgd({.rate = 0.01, .momentum = 0.5});
    Lion<Large> lion({.rate = 0.01});
    for (int t = 0; t < 3; ++t) {
      adamw.update(model, gradient);
      sgd.update(model, gradient);
      lion.update(model, gradient);
    }
    return model;
  };
  const Large one = run(1);
  REQUIRE(one.matrix == run(2).matrix);
  for (Index i = 17 * 13; i < one.matrix.size; ++i) {
    REQUIRE(one.matrix[i] == one.matrix[i - 17 * 13]);  // equal numbers fared equally
  }
}

TEST_CASE("Clipping is PyTorch's", "[train][clip][golden]") {
  namespace g = goldens::optimizers::clip;
  Pair<5, 3> gradient;
  copy(g::d_matrix, 0, gradient.matrix);
  copy(g::d_vector, 0, gradient.vector);
  const auto before = gradient;
  REQUIRE(global_norm(gradient) == Approx(g::norm[0]).epsilon(1e-12));
  REQUIRE(clip_global_norm(gradient, 100) == Approx(g::norm[0]).epsilon(1e-12));
  REQUIRE(gradient.matrix == before.matrix);
  REQUIRE(clip_global_norm(gradient, 0.5) == Approx(g::norm[0]).epsilon(1e-12));
  same("matrix", gradient.matrix.flat(), g::clipped_matrix, 1e-12);
  same("vector", gradient.vector.flat(), g::clipped_vector, 1e-12);
}

TEST_CASE("The first parameter that is not finite is named", "[train][clip]") {
  Pair<2, 2, float> model;
  REQUIRE(first_not_finite(model).empty());
  model.vector[1] = std::numeric_limits<float>::infinity();
  REQUIRE(first_not_finite(model) == "vector");
  model.matrix[3] = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(first_not_finite(model) == "matrix");
}

TEST_CASE("The average starts quickly and then moves by its decay", "[train][average]") {
  Pair<1, 1> model;
  model.matrix[0] = 4;
  Average<Pair<1, 1>> average(model, 0.25);
  REQUIRE(average.value().matrix[0] == 4);
  model.matrix[0] = 14;
  average.update(model);  // 1/10 of the old
  REQUIRE(average.value().matrix[0] == Approx(13).epsilon(1e-14));
  model.matrix[0] = 2;
  average.update(model);  // 2/11
  REQUIRE(average.value().matrix[0] == Approx(4).epsilon(1e-14));
  average.update(model);  // 3/12 is the decay, and 4/13 more than it
  average.update(model);
  REQUIRE(average.value().matrix[0] == Approx(2 + 2.0 / 16).epsilon(1e-14));
}

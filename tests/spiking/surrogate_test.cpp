#include <limen/spiking/surrogate.hpp>

#include <cmath>
#include <limits>

#include <limen/spiking/lif.hpp>
#include <limen/spiking/synaptic.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

template <class Phi>
struct Row {
  Phi phi;
  double peak, area;  ///< area 0: none
};

/// ∫φ by the midpoint rule on ±reach, and what a tail like c / u² still holds.
template <class Phi>
double area(const Phi& phi, double reach, int pieces) {
  const double h = 2 * reach / pieces;
  double sum = 0;
  for (int i = 0; i < pieces; ++i) sum += phi.derivative(-reach + (i + 0.5) * h) * h;
  return sum + 2 * reach * phi.derivative(reach);
}

template <class Phi>
void holds(const Row<Phi>& row) {
  const Phi& phi = row.phi;
  static_assert(Surrogate<Phi>);
  REQUIRE(sound(phi));
  REQUIRE(std::abs(phi.derivative(0.0) - row.peak) < 1e-15 * (1 + row.peak));
  if (row.area > 0) REQUIRE(std::abs(area(phi, 400, 4'000'000) - row.area) < 2e-5 * row.area);
  for (int i = -60; i <= 60; ++i) {
    const double u = i / 37.0 + 1e-3, h = 1e-6;  // never on a kink
    const double slope = (phi.primitive(u + h) - phi.primitive(u - h)) / (2 * h);
    INFO("u = " << u);
    REQUIRE(std::abs(slope - phi.derivative(u)) < 1e-7 * (1 + row.peak));
    // One number, and each lane of a vector of them.
    const auto of_double = phi.derivative(simd::Vec<double>(u));
    const auto of_float = phi.derivative(simd::Vec<float>(static_cast<float>(u)));
    const auto whole = phi.primitive(simd::Vec<double>(u));
    double lanes[simd::lanes<double>];
    float narrow[simd::lanes<float>];
    simd::store(lanes, of_double);
    for (const double lane : lanes) {
      REQUIRE(std::abs(lane - phi.derivative(u)) < 1e-14 * (1 + row.peak));
    }
    simd::store(lanes, whole);
    for (const double lane : lanes) REQUIRE(lane == phi.primitive(u));
    simd::store(narrow, of_float);
    for (const float lane : narrow) {
      REQUIRE(std::abs(static_cast<double>(lane) - phi.derivative(u)) < 3e-5 * (1 + row.peak));
    }
  }
  REQUIRE(phi.derivative(std::numeric_limits<double>::max()) >= 0);
}

}  // namespace

TEST_CASE("A surrogate has the peak and the area of its table and is the slope of its primitive",
          "[spiking][surrogate]") {
  holds(Row<ArcTan>{{}, 1, 1});
  holds(Row<ArcTan>{{.alpha = 5}, 2.5, 1});
  holds(Row<Sigmoid>{{}, 1, 1});
  holds(Row<Sigmoid>{{.k = 25}, 6.25, 1});
  holds(Row<FastSigmoid>{{}, 1, 2.0 / 25});
  holds(Row<SuperSpike>{{.k = 1, .height = 3}, 3, 6});
  holds(Row<SoftSign>{{}, 1, 1});
  holds(Row<Triangle>{{}, 0.3, 0.3});
  holds(Row<Triangle>{{.gamma = 2, .width = 0.5}, 4, 2});
  holds(Row<PiecewiseQuadratic>{{.alpha = 2}, 2, 1});
  holds(Row<PiecewiseExponential>{{.alpha = 3}, 1.5, 1});
  holds(Row<Gaussian>{{}, 2 / std::sqrt(std::numbers::pi), 1});
  holds(Row<Rect>{{.alpha = 2}, 2, 1});
  holds(Row<TanhPrime>{{.k = 2}, 1, 1});
  holds(Row<StraightThrough>{{}, 1, 0});
  holds(Row<LeakyStep>{{}, 1, 0});
}

TEST_CASE("The arc tangent of width 2: numbers by hand", "[spiking][surrogate]") {
  REQUIRE(std::abs(ArcTan{}.derivative(0.2) - 0.716957) < 5e-7);
  REQUIRE(std::abs(ArcTan{}.derivative(-0.5) - 0.288400) < 5e-7);
}

TEST_CASE("A steep sigmoid far below threshold is 0, not NaN", "[spiking][surrogate]") {
  REQUIRE(Sigmoid{.k = 25}.derivative(-40.0f) == 0);
  REQUIRE(Sigmoid{.k = 25}.derivative(40.0f) == 0);
  float lanes[simd::lanes<float>];
  simd::store(lanes, Sigmoid{.k = 25}.derivative(simd::Vec<float>(-40.0f)));
  REQUIRE(lanes[0] < 1e-30f);
}

TEST_CASE("Numbers that a formula cannot have are not sound", "[spiking][surrogate]") {
  STATIC_REQUIRE(!sound(ArcTan{.alpha = 0}));
  STATIC_REQUIRE(!sound(Sigmoid{.k = -1}));
  STATIC_REQUIRE(!sound(FastSigmoid{.k = 0}));
  STATIC_REQUIRE(!sound(SuperSpike{.k = 1, .height = 0}));
  STATIC_REQUIRE(!sound(Triangle{.gamma = 0.3, .width = 0}));
  STATIC_REQUIRE(!sound(Rect{.alpha = std::numeric_limits<double>::quiet_NaN()}));
  STATIC_REQUIRE(!sound(Soft{Gaussian{.alpha = -2}}));
  STATIC_REQUIRE(sound(Soft{Gaussian{}}));
  STATIC_REQUIRE(sound(StraightThrough{}));
}

namespace {

/// A user's own.
struct Cauchy {
  double width = 1;
  constexpr bool sound() const { return width > 0; }
  template <class V>
  V derivative(const V& u) const {
    const V x = u * surrogate::like(u, 1 / width);
    return surrogate::like(u, 1) / (surrogate::like(u, 1) + x * x);
  }
  template <class V>
  V primitive(const V& u) const {
    return surrogate::each(u, [this](double v) { return width * std::atan(v / width); });
  }
};

struct NoSlope {};
struct OnlyNumbers {
  float derivative(float u) const { return u; }
};

}  // namespace

TEST_CASE("A surrogate of one's own trains a neuron", "[spiking][surrogate][laws]") {
  STATIC_REQUIRE(Surrogate<Cauchy>);
  STATIC_REQUIRE(!Surrogate<NoSlope>);
  STATIC_REQUIRE(!Surrogate<OnlyNumbers>);
  constexpr LifConfig config{.d_model = 3};
  STATIC_REQUIRE(Layer<Lif<config, float, Cauchy{.width = 0.5}>>);
  Random random(1);
  laws::hold(Lif<config, double, Soft<Cauchy>{Cauchy{.width = 0.5}}>::initialized(random));
}

TEST_CASE("NaN never fires, and a membrane at its threshold as the test says", "[spiking][fire]") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE(!fires<SpikeTest::ge>(nan));
  REQUIRE(!fires<SpikeTest::gt>(nan));
  REQUIRE(fires(0.0, SpikeTest::ge));
  REQUIRE(!fires(0.0, SpikeTest::gt));
  REQUIRE(fires(1e-300, SpikeTest::gt));
  REQUIRE(!fires(-1e-300, SpikeTest::ge));
}

TEST_CASE("Decays are those of the standard library, also when the compiler makes them",
          "[spiking][time]") {
  for (int i = 1; i < 4000; ++i) {
    const double dt = i * 0.011;
    const double expected = std::exp(-dt);
    REQUIRE(std::abs(exact_decay(dt, 1) - expected) <= 4e-16 * expected);
  }
  REQUIRE(exact_decay(800, 1) == 0);
  constexpr double made = exact_decay(0.5, 20);
  REQUIRE(made == exact_decay(0.5, 20));
  STATIC_REQUIRE(euler_decay(1, 4) == 0.75);
  STATIC_REQUIRE(euler_decay(2, 2) == 0);
}

TEST_CASE("A refractory time is as many steps as cover it", "[spiking][time]") {
  STATIC_REQUIRE(refractory_steps(2, 0.5) == 4);
  STATIC_REQUIRE(refractory_steps(2, 0.3) == 7);
  STATIC_REQUIRE(refractory_steps(2.1, 0.3) == 7);  // 7.000000000000001
  STATIC_REQUIRE(refractory_steps(0, 1) == 0);
}

namespace {

template <auto F>
concept Constant = requires { typename std::bool_constant<(F(), true)>; };

std::string refusal(auto f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("Times that cannot be are refused, by the compiler where it sees them",
          "[spiking][time]") {
  STATIC_REQUIRE(Constant<[] { return exact_decay(1, 10); }>);
  STATIC_REQUIRE(!Constant<[] { return exact_decay(1, 0); }>);
  STATIC_REQUIRE(!Constant<[] { return exact_decay(-1, 10); }>);
  STATIC_REQUIRE(!Constant<[] { return euler_decay(3, 2); }>);
  STATIC_REQUIRE(!Constant<[] { return refractory_steps(-1, 1); }>);
  STATIC_REQUIRE(!Constant<[] { return refractory_steps(1, 0); }>);
  REQUIRE(refusal([] { exact_decay(0, 10); }).starts_with("exact_decay: dt_ms: wanted a positive"));
  REQUIRE(refusal([] { exact_decay(1, std::nan("")); }).starts_with("exact_decay: tau_ms"));
  REQUIRE(refusal([] {
            euler_decay(3, 2);
          }).starts_with("euler_decay: dt_ms: wanted at most tau_ms, found 3"));
  REQUIRE(refusal([] { refractory_steps(1e300, 1); }).starts_with("refractory_steps: period_ms"));
}

TEST_CASE("The exact gain of a decaying current, also where both time constants meet",
          "[spiking][time]") {
  const auto formula = [](long double dt, long double m, long double s) {
    return static_cast<double>(s / (m - s) * (std::exp(-dt / m) - std::exp(-dt / s)));
  };
  for (const double tau : {2.0, 5.0, 9.9, 10.1, 40.0, 300.0}) {
    const double expected = formula(1, 10, static_cast<long double>(tau));
    REQUIRE(std::abs(exact_current_gain(1, 10, tau) - expected) < 1e-14 * expected);
  }
  const double limit = 0.1 * std::exp(-0.1);
  REQUIRE(std::abs(exact_current_gain(1, 10, 10) - limit) < 1e-16);
  REQUIRE(std::abs(exact_current_gain(1, 10, 10 + 1e-9) - limit) < 1e-11);
}

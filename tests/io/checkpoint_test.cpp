#include <limen/io/checkpoint.hpp>

#include <limen/nn/linear.hpp>

#include <csignal>

#include <sys/resource.h>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

namespace {

template <LinearConfig C = LinearConfig{.d_in = 3, .d_out = 2}, class S = float>
struct Two {
  using Scalar = real_of<S>;
  template <class T>
  using with_scalar = Two<C, T>;
  Linear<C, S> first;
  Linear<C, S> second;
  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("first", l.first...);
    f("second", l.second...);
  }
  static Two initialized(Random& random) {
    return {Linear<C, S>::initialized(random), Linear<C, S>::initialized(random)};
  }
  bool operator==(const Two& o) const {
    return first.weight == o.first.weight && first.bias == o.first.bias &&
           second.weight == o.second.weight && second.bias == o.second.bias;
  }
};

constexpr LinearConfig base{.d_in = 3, .d_out = 2};
using Net = Two<base>;

Net random_net(std::uint64_t seed) {
  Random random(seed);
  return Net::initialized(random);
}

static_assert(!is_inference_form<Net>);
static_assert(!is_inference_form<Two<base, double>>);
static_assert(is_inference_form<Two<base, Prepared<float>>>);

}  // namespace

TEST_CASE("A model survives the way through a file", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  const Net saved = random_net(1);
  REQUIRE(save(saved, path, {{"made", "here"}}));
  Net loaded;
  REQUIRE(load(loaded, path));
  REQUIRE(loaded == saved);
  auto file = Safetensors::open(path);
  REQUIRE(file->metadata("made") == "here");
  REQUIRE(file->find("first.weight")->text() == "[2 x 3] float32");

  const auto wide = Two<base, double>::initialized(*std::make_unique<Random>(3));
  REQUIRE(save(wide, path));
  Two<base, double> wide_back;
  REQUIRE(load(wide_back, path));
  REQUIRE(wide_back == wide);
}

TEST_CASE("What does not fit is named and changes nothing", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  const Net before = random_net(1);
  Net model = before;
  const auto refused = [&](const LoadOptions& options = {}) {
    const Status s = load(model, path, options);
    REQUIRE(model == before);
    return s ? "fine" : s.error().message();
  };
  REQUIRE(refused() == path + ": wanted a file that can be read, found No such file or directory");
  REQUIRE(load(model, folder.path("")).error().found == "a folder");

  REQUIRE(save(Two<LinearConfig{.d_in = 4, .d_out = 2}>{}, path));
  REQUIRE(refused() ==
          "first.weight: wanted [2 x 3] float32, found [2 x 4] float32 in m.safetensors");
  REQUIRE(save(before.first, path));
  REQUIRE(refused() == "first.weight: wanted [2 x 3] float32, found nothing in m.safetensors");
  REQUIRE(save(Two<base, double>{}, path));
  REQUIRE(refused() ==
          "first.weight: wanted [2 x 3] float32, found [2 x 3] float64 in m.safetensors");

  Net other = random_net(2);
  float x = 1;
  Inventory more;
  more.add("", other);
  more.add_number("third", x);
  REQUIRE(save(more, path));
  REQUIRE(refused() == "third: wanted nothing of this name, found [] float32 in m.safetensors");
  REQUIRE(load(model, path, {.ignore_extra = true}));
  REQUIRE(model == other);
}

TEST_CASE("Numbers of another kind are converted when asked", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  Linear<LinearConfig{.d_in = 1, .d_out = 2}> layer;
  std::uint16_t half[] = {0x3C00, 0xC000}, brain[] = {0x4040, 0x3F80};
  std::vector<NamedTensor> tensors(2);
  tensors[0] = {{"weight", Dtype::float16, {2, 1}}, half};
  tensors[1] = {{"bias", Dtype::bfloat16, {2}}, brain};
  REQUIRE(write_safetensors(path, tensors));
  REQUIRE_FALSE(load(layer, path));
  REQUIRE(load(layer, path, {.convert = true}));
  REQUIRE(layer.weight[0] == 1);
  REQUIRE(layer.weight[1] == -2);
  REQUIRE(layer.bias[0] == 3);
  Linear<LinearConfig{.d_in = 1, .d_out = 2}, double> wide;
  REQUIRE(load(wide, path, {.convert = true}));
  REQUIRE(wide.weight[1] == -2);
  tensors[0].dtype = Dtype::int16;
  REQUIRE(write_safetensors(path, tensors));
  REQUIRE(load(layer, path, {.convert = true}).error().message() ==
          "weight: wanted [2 x 1] float32, found [2 x 1] int16 in m.safetensors");
}

TEST_CASE("A part of a file can be loaded by its prefix", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  const Net net = random_net(4);
  REQUIRE(save(net, path));
  Linear<base> second;
  REQUIRE(load(second, path, {.prefix = "second."}));
  REQUIRE(second.weight == net.second.weight);
}

TEST_CASE("A file that breaks off changes nothing", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  REQUIRE(save(random_net(1), path));
  const std::string whole = content(path);
  const Net before = random_net(2);
  Net model = before;
  for (std::size_t n = 0; n < whole.size(); ++n) {
    write_content(path, whole.substr(0, n));
    REQUIRE_FALSE(load(model, path));
    REQUIRE(model == before);
  }
  write_content(path, whole);
  auto file = Safetensors::open(path);
  std::filesystem::resize_file(path, whole.size() - 1);  // behind the reader's back
  REQUIRE_FALSE(load(model, *file));
  REQUIRE(model == before);
}

TEST_CASE("What cannot be saved leaves the old file", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  const Net old = random_net(1);
  REQUIRE(save(old, path));
  const auto old_survives = [&] {
    Net model;
    return static_cast<bool>(load(model, path)) && model == old;
  };

  SECTION("on a full disk") {
    std::filesystem::create_symlink("/dev/full", path + ".partial");
    REQUIRE(save(random_net(2), path).error().message() ==
            path + ": wanted all of it written, found No space left on device");
    REQUIRE(old_survives());
    REQUIRE_FALSE(std::filesystem::exists(std::filesystem::symlink_status(path + ".partial")));
    REQUIRE(save(random_net(2), path));
  }
  SECTION("beyond the largest file allowed") {
    rlimit before;
    ::getrlimit(RLIMIT_FSIZE, &before);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{64, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    const Status s = save(random_net(2), path);
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    REQUIRE_FALSE(s);
    REQUIRE(old_survives());
    REQUIRE_FALSE(std::filesystem::exists(path + ".partial"));
  }
  SECTION("where there is no folder") {
    REQUIRE(save(old, folder.path("none/m.safetensors")).error().wanted == "a place to write");
  }
  SECTION("over something that is no file") {
    REQUIRE(save(old, folder.path("")).error().wanted == "a file to replace");
    REQUIRE(save(old, "/dev/null").error().wanted == "a file to replace");
  }
}

TEST_CASE("A number that is none is an error that names its tensor", "[io][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("m.safetensors");
  Net saved = random_net(1);
  saved.second.bias[1] = std::numeric_limits<float>::infinity();
  REQUIRE(save(saved, path));
  Net loaded = random_net(2);
  const Status s = load(loaded, path);
  REQUIRE(!s);
  REQUIRE(s.error().message() ==
          "second.bias: wanted finite numbers, found inf at element 1 in m.safetensors");
  REQUIRE(loaded == random_net(2));
  REQUIRE(load(loaded, path, {.finite = false}));
  REQUIRE(loaded == saved);
}

#pragma once
/// @file  A model to a file and back: all of it or nothing.
///
///     limen::save(model, "model.safetensors").value();        // or look at the Status
///     limen::load(model, "model.safetensors").value();
///
/// Names and shapes come from `visit`. `load` first compares every tensor of the model with the
/// file, then reads, and only then touches the model. What does not fit is an error such as
///
///     blocks.3.mixer.A_log: wanted [1536 x 16] float32, found [1536 x 8] float16 in m.safetensors

#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <limen/core/memory.hpp>
#include <limen/core/parameters.hpp>
#include <limen/io/safetensors.hpp>

namespace limen::inline LIMEN_ABI {

/// The inference form of a model: weights in panels, derived from another model.
template <class M>
inline constexpr bool is_inference_form = false;
template <class M>
  requires requires { typename M::template with_scalar<typename M::Scalar>; }
inline constexpr bool is_inference_form<M> =
    !std::is_same_v<M, typename M::template with_scalar<typename M::Scalar>>;

namespace detail {

/// What is stored of an enum.
template <class T>
struct Underlying {
  using type = T;
};
template <class T>
  requires std::is_enum_v<T>
struct Underlying<T> : std::underlying_type<T> {};
template <class T>
using NumberOf = typename Underlying<T>::type;

}  // namespace detail

/// What a file is written from and read into: a list of tensors somewhere in memory.
class Inventory {
 public:
  /// Every tensor of the model, as `prefix` + its name.
  template <class M>
  void add(const std::string& prefix, M& model) {
    static_assert(!is_inference_form<std::remove_const_t<M>>,
                  "a prepared model cannot be saved or loaded: do it with the model it is made "
                  "from, and prepare again");
    for_each_parameter(
        [&](const std::string& name, auto& tensor) {
          using T = std::remove_cvref_t<decltype(tensor)>;
          add_numbers(prefix + name, {T::shape.begin(), T::shape.end()}, tensor.data());
        },
        model);
  }

  template <class T>
  void add_number(std::string name, T& value) {
    add_numbers(std::move(name), {}, &value);
  }

  template <class T>
  void add_numbers(std::string name, std::vector<Index> shape, T* data) {
    NamedTensor t;
    t.name = std::move(name);
    t.dtype = dtype_of<detail::NumberOf<std::remove_const_t<T>>>();
    t.shape = std::move(shape);
    t.data = const_cast<std::remove_const_t<T>*>(data);  // NOLINT: written to by `load` only
    tensors.push_back(std::move(t));
  }

  std::vector<NamedTensor> tensors;
};

struct LoadOptions {
  bool convert = false;       ///< accept any floating-point kind for another (float16 for float32)
  bool ignore_extra = false;  ///< accept tensors that the model does not have
  bool finite = true;         ///< NaN and infinities are errors that name the tensor
  std::string prefix{};       ///< of the model's names in the file; other names are not looked at
};

inline Status save(const Inventory& inventory, const std::string& path,
                   const Metadata& metadata = {}) {
  return write_safetensors(path, inventory.tensors, metadata);
}

namespace detail {

inline bool is_floating(Dtype d) {
  return d == Dtype::float16 || d == Dtype::bfloat16 || d == Dtype::float32 || d == Dtype::float64;
}

inline Status check_fits(const Inventory& inventory, const Safetensors& file,
                         const LoadOptions& options) {
  std::vector<std::string_view> known;
  for (const NamedTensor& t : inventory.tensors) {
    const StoredTensor* found = file.find(options.prefix + t.name);
    if (found == nullptr) return Error{t.name, t.text(), "nothing in " + file.file_name()};
    known.push_back(found->name);
    const bool same_kind = found->dtype == t.dtype ||
                           (options.convert && is_floating(t.dtype) && is_floating(found->dtype));
    if (found->shape != t.shape || !same_kind) {
      return Error{t.name, t.text(), found->text() + " in " + file.file_name()};
    }
  }
  if (options.ignore_extra) return {};
  std::sort(known.begin(), known.end());
  for (const StoredTensor& t : file.tensors()) {
    if (t.name.starts_with(options.prefix) &&
        !std::binary_search(known.begin(), known.end(), t.name)) {
      return Error{shown(t.name), "nothing of this name", t.text() + " in " + file.file_name()};
    }
  }
  return {};
}

inline Status read_into(const Safetensors& file, const StoredTensor& from, const NamedTensor& t,
                        std::byte* to) {
  const auto size = static_cast<std::size_t>(t.size());
  if (from.dtype == t.dtype) return file.read_bytes(from, to);
  if (t.dtype == Dtype::float32) {
    return file.read_converted(from, std::span(reinterpret_cast<float*>(to), size));
  }
  return file.read_converted(from, std::span(reinterpret_cast<double*>(to), size));
}

/// What is loaded once is computed with for months: a damaged number is worth a look.
template <class Real>
Status check_finite(const NamedTensor& t, const std::byte* read, const std::string& file_name) {
  const auto* values = reinterpret_cast<const Real*>(read);
  for (std::uint64_t i = 0; i < t.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return Error{
          t.name, "finite numbers",
          std::to_string(values[i]) + " at element " + std::to_string(i) + " in " + file_name};
    }
  }
  return {};
}

inline Status check_finite(const NamedTensor& t, const std::byte* read,
                           const std::string& file_name) {
  if (t.dtype == Dtype::float32) return check_finite<float>(t, read, file_name);
  if (t.dtype == Dtype::float64) return check_finite<double>(t, read, file_name);
  return {};
}

}  // namespace detail

inline Status load(const Inventory& inventory, const Safetensors& file,
                   const LoadOptions& options = {}) {
  if (Status s = detail::check_fits(inventory, file, options); !s) return s;
  std::vector<Buffer<std::byte>> read;  // a file may still break off while it is read
  for (const NamedTensor& t : inventory.tensors) {
    read.emplace_back(static_cast<Index>(t.bytes()));
    const StoredTensor& from = *file.find(options.prefix + t.name);
    if (Status s = detail::read_into(file, from, t, read.back().data()); !s) return s;
    if (!options.finite) continue;
    if (Status s = detail::check_finite(t, read.back().data(), file.file_name()); !s) return s;
  }
  for (std::size_t i = 0; i < read.size(); ++i) {
    std::memcpy(inventory.tensors[i].data, read[i].data(),
                static_cast<std::size_t>(inventory.tensors[i].bytes()));
  }
  return {};
}

inline Status load(const Inventory& inventory, const std::string& path,
                   const LoadOptions& options = {}) {
  auto file = Safetensors::open(path);
  if (!file) return file.error();
  return load(inventory, *file, options);
}

/// Writes every parameter of the model, and `metadata`, which no loader looks at.
template <Parametrized M>
Status save(const M& model, const std::string& path, const Metadata& metadata = {}) {
  Inventory inventory;
  inventory.add("", model);
  return save(inventory, path, metadata);
}

/// Reads every parameter of the model; on an error the model is as it was.
template <Parametrized M>
Status load(M& model, const std::string& path, const LoadOptions& options = {}) {
  Inventory inventory;
  inventory.add("", model);
  return load(inventory, path, options);
}

template <Parametrized M>
Status load(M& model, const Safetensors& file, const LoadOptions& options = {}) {
  Inventory inventory;
  inventory.add("", model);
  return load(inventory, file, options);
}

}  // namespace limen::inline LIMEN_ABI

#pragma once
/// @file  What all optimizers share. An optimizer walks a model and its gradient with `visit` and
/// knows no layer by name; its moments are models themselves.
///
///     AdamW<Model> optimizer({.rate = 3e-4, .rules = {.frozen = {"embedding"}}});
///     optimizer.update(model, gradient, schedule(t));       // one step, rate = 3e-4 * schedule(t)
///
/// Weight decay shrinks matrices. Vectors (biases, gains, decay rates) are left out unless `.rules`
/// say otherwise: to shrink a gain towards 0 is not to prefer a simpler model. Statistics are not
/// learned at all; `settle` moves them.

#include <string>
#include <string_view>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/error.hpp>
#include <limen/train/elementwise.hpp>

namespace limen::inline LIMEN_ABI {

/// Does the name contain these words, whole, between dots? "blocks.0" is in "net.blocks.0.weight",
/// and not in "net.blocks.01.weight".
inline bool name_contains(std::string_view name, std::string_view words) {
  for (std::size_t at = name.find(words); at != std::string_view::npos;
       at = name.find(words, at + 1)) {
    const std::size_t end = at + words.size();
    if ((at == 0 || name[at - 1] == '.') && (end == name.size() || name[end] == '.')) return true;
  }
  return false;
}

inline bool name_contains(std::string_view name, const std::vector<std::string>& any_of) {
  for (const std::string& words : any_of) {
    if (name_contains(name, words)) return true;
  }
  return false;
}

/// Exceptions by name (see name_contains).
struct ParameterRules {
  std::vector<std::string> frozen{};     ///< stay as they are: no step, no decay, no moments
  std::vector<std::string> undecayed{};  ///< matrices that do not decay
  bool decay_vectors = false;            ///< vectors decay too
};

/// What an optimizer does with one parameter.
struct ParameterRole {
  bool frozen;
  bool decayed;
  bool matrix;  ///< for Muon
};

namespace detail {

/// A name that no parameter has is a slip of the pen: what it was to protect would be learned.
template <class M>
void check_names(const M& model, const std::vector<std::string>& names, const char* who) {
  for (const std::string& words : names) {
    bool found = false;
    for_each_parameter(
        [&](const std::string& name, const auto&) { found = found || name_contains(name, words); },
        model);
    if (!found) fail({who, "names of parameters", '"' + words + '"'});
  }
}

template <class M>
std::vector<ParameterRole> roles_of(const M& model, const ParameterRules& rules,
                                    const std::vector<std::string>& not_matrices = {}) {
  check_names(model, rules.frozen, "ParameterRules: .frozen");
  check_names(model, rules.undecayed, "ParameterRules: .undecayed");
  std::vector<ParameterRole> roles;
  for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        constexpr bool matrix = std::remove_cvref_t<decltype(tensor)>::shape.size() > 1;
        roles.push_back(
            {.frozen = name_contains(name, rules.frozen),
             .decayed = (matrix || rules.decay_vectors) && !name_contains(name, rules.undecayed),
             .matrix = matrix && !name_contains(name, not_matrices)});
      },
      model);
  return roles;
}

inline void check_option(const char* who, double x, double from, double below) {
  if (x >= from && x < below) return;
  fail({who, "a number from " + std::to_string(from) + " to below " + std::to_string(below),
        std::to_string(x)});
}

inline constexpr double unlimited = 1e30;

}  // namespace detail

}  // namespace limen::inline LIMEN_ABI

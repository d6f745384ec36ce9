#pragma once
/// @file  A look into attention, and a hand in it, from outside of a composed model.
///
///     auto louder = edit_maps([&](Index layer, auto& maps) {      // AttentionMaps, [B][H][Tq][Tk]
///       if (layer == 3) emphasise(maps, 0, words, 0.3);
///     });
///     Context run{.attention = &louder};
///     model.forward(x, Batch<Model::State>(states, offsets, &run));
///
/// Every layer of attention that meets an editor in its Context hands over queries, keys and values
/// of all sequences, as they are scored and read, and takes back y. Layers are numbered in the
/// order in which they run. Without an editor it costs a comparison. Edits are for inference:
/// training refuses, and `step` passes an editor by.
///
///     const AttentionMask prefix{.queries = 6, .keys = 6, .keep = bytes};
///     Masked only(prefix);                              // in training too

#include <optional>
#include <span>
#include <utility>

#include <limen/attention/maps.hpp>
#include <limen/attention/mask.hpp>

namespace limen::inline LIMEN_ABI {

class AttentionEditor {
 public:
  /// The next layer of this run. False after an error: then there is no y.
  template <class Real>
  bool next(const AttentionRule<Real>& rule, std::span<const AttentionCall<Real>> calls) {
#if LIMEN_EXCEPTIONS
    attend(layer_++, rule, calls);
    return true;
#else
    auto earlier = std::exchange(last_error(), std::nullopt);
    attend(layer_++, rule, calls);
    if (last_error()) return false;
    last_error() = std::move(earlier);
    return true;
#endif
  }
  /// Masks for the next layer: one for all sequences, or one for each. Empty: call `next`.
  std::span<const AttentionMask> next_masks() {
    const auto m = masks(layer_);
    if (!m.empty()) ++layer_;
    return m;
  }
  /// Before a run: the layers are counted anew.
  void restart() { layer_ = 0; }

 protected:
  ~AttentionEditor() = default;

  /// An editor that only forbids keys, of this layer, says so here. The layer then does the softmax
  /// itself, and learns.
  virtual std::span<const AttentionMask> masks(Index) const { return {}; }

  /// Writes y of all calls: as `attention` does, or otherwise.
  virtual void attend(Index, const AttentionRule<float>& rule,
                      std::span<const AttentionCall<float>> calls) {
    attention<float>(rule, calls);
  }
  virtual void attend(Index, const AttentionRule<double>& rule,
                      std::span<const AttentionCall<double>> calls) {
    attention<double>(rule, calls);
  }

 private:
  Index layer_ = 0;
};

/// Masks for all layers: one for all sequences, or one for each.
class Masked final : public AttentionEditor {
 public:
  explicit Masked(const AttentionMask& one) : masks_(&one, 1) {}
  explicit Masked(std::span<const AttentionMask> masks) : masks_(masks) {}

 private:
  std::span<const AttentionMask> masks(Index) const override { return masks_; }

  std::span<const AttentionMask> masks_;
};

/// Lays the probabilities of every layer open: edit(layer, maps). All sequences must be as long as
/// each other.
template <class F>
class EditMaps final : public AttentionEditor {
 public:
  explicit EditMaps(F edit) : edit_(std::move(edit)) {}

 private:
  void attend(Index layer, const AttentionRule<float>& rule,
              std::span<const AttentionCall<float>> calls) override {
    laid_open(layer, rule, calls);
  }
  void attend(Index layer, const AttentionRule<double>& rule,
              std::span<const AttentionCall<double>> calls) override {
    laid_open(layer, rule, calls);
  }
  template <class Real>
  void laid_open(Index layer, const AttentionRule<Real>& rule,
                 std::span<const AttentionCall<Real>> calls) {
    detail::read_edited<Real>(rule, calls, [&](auto& maps) { edit_(layer, maps); });
  }

  F edit_;
};

template <class F>
EditMaps<F> edit_maps(F edit) {
  return EditMaps<F>(std::move(edit));
}

}  // namespace limen::inline LIMEN_ABI

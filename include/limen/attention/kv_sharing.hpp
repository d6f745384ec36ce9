#pragma once
/// @file  Two streams that run side by side, of which one reads the keys and values of the other.
///
///   y_source = attention(q_s, k_s, v_s)
///   y_target = attention(q_t, k_s, v_s)            all of them, or by a mask:
///
/// a video cell of the target that belongs to its foreground sees the foreground of the source, any
/// other the background; text rows see all, and all see text. (With M the foreground of the target,
/// this is M ⊙ y_fg + (1 - M) ⊙ y_bg of two masked attentions, each row worked out once.)
///
///   m_i = mean over heads, and over layers so far, of Σ_j P_ij       j: the tokens that mean it
///   foreground: (m_i - min) / (max - min + 1e-6) >= threshold        min and max of each frame
///
/// Cai et al., "DiTCtrl", arXiv:2412.18597. No gradient flows through a mask; attention_backward
/// takes the call with its `keep`.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <limen/attention/editor.hpp>

namespace limen::inline LIMEN_ABI {

/// A stream is text, then frames of as many cells each.
struct StreamLayout {
  Index text = 0, frames = 1, cells = 1;

  constexpr Index video() const { return frames * cells; }
  constexpr Index rows() const { return text + video(); }
};

/// How much every video cell asks for some tokens of the text, over the layers of a run.
class TokenMap {
 public:
  explicit TokenMap(const StreamLayout& layout)
      : layout_(layout), sums_(static_cast<std::size_t>(layout.video())) {}

  void restart() {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    layers_ = 0;
  }
  Index layers() const { return layers_; }

  /// Σ_j P_ij is attention to values that are 1 at the tokens and 0 elsewhere: no map is written.
  template <class Real>
  void add(const AttentionRule<Real>& rule, AttentionCall<Real> call,
           std::span<const Index> tokens) {
    const Index H = rule.query_heads, K = rule.key_heads, first = layout_.text;
    for (const Index j : tokens) {
      if (j >= 0 && j < layout_.text) continue;
      fail({"token of a map", "0 to " + std::to_string(layout_.text - 1), std::to_string(j)});
      return;
    }
    Buffer<Real> ones(call.k.rows * K), p(call.q.rows * H);
    std::fill(ones.begin(), ones.end(), Real(0));
    for (const Index j : tokens) std::fill_n(ones.data() + j * K, K, Real(1));
    call.v = {ones.data(), call.k.rows, K, K};
    call.y = {p.data(), call.q.rows, H, H};
    call.lse = nullptr;
    attention<Real>(rule, std::span(&call, 1));
    for (Index i = 0; i < layout_.video(); ++i) {
      double mean = 0;
      for (Index h = 0; h < H; ++h) mean += static_cast<double>(call.y.row(first + i)[h]);
      sums_[static_cast<std::size_t>(i)] += mean / static_cast<double>(H);
    }
    ++layers_;
  }

  /// [frames][cells], 1 where it is foreground. A frame that asks evenly has none.
  std::vector<std::uint8_t> foreground(double threshold) const {
    std::vector<std::uint8_t> mask(sums_.size());
    const double by = layers_ > 0 ? 1 / static_cast<double>(layers_) : 0;
    for (Index f = 0; f < layout_.frames; ++f) {
      const auto begin = sums_.begin() + f * layout_.cells, end = begin + layout_.cells;
      const auto [low, high] = std::minmax_element(begin, end);
      for (auto cell = begin; cell != end; ++cell) {
        const double m = (*cell - *low) * by / ((*high - *low) * by + 1e-6);
        mask[static_cast<std::size_t>(cell - sums_.begin())] = m >= threshold ? 1 : 0;
      }
    }
    return mask;
  }

 private:
  StreamLayout layout_;
  std::vector<double> sums_;  ///< [frames][cells]
  Index layers_ = 0;
};

/// The target reads keys and values of the source.
template <class Real>
AttentionCall<Real> with_keys_of(const AttentionCall<Real>& source, AttentionCall<Real> target) {
  target.k = source.k;
  target.v = source.v;
  target.offset = source.offset;
  target.positions = source.positions;
  return target;
}

/// [rows][rows], as AttentionCall::keep wants it.
inline std::vector<std::uint8_t> shared_keep(const StreamLayout& layout,
                                             std::span<const std::uint8_t> source,
                                             std::span<const std::uint8_t> target) {
  const Index rows = layout.rows(), video = layout.video();
  std::vector<std::uint8_t> keep(static_cast<std::size_t>(rows * rows), 1);
  for (Index i = 0; i < video; ++i) {
    const auto to = keep.begin() + (layout.text + i) * rows + layout.text;
    const auto front = target[static_cast<std::size_t>(i)];
    for (Index j = 0; j < video; ++j) to[j] = source[static_cast<std::size_t>(j)] == front ? 1 : 0;
  }
  return keep;
}

struct SharedKeysConfig {
  StreamLayout layout{};
  std::vector<Index> source_tokens{}, target_tokens{};  ///< what the foreground of each is
  bool masked = true;      ///< false: the target reads all of the source
  double threshold = 0.3;  ///< of the foreground
  Index first_layer = 0;   ///< the layers that share
  Index last_layer = std::numeric_limits<Index>::max();
};

/// An editor for models whose batch is source, target, source, target, ...; the maps are those of
/// the last two (of unconditional and conditional pairs, the latter). Maps of all layers count,
/// also of those that do not share. `restart` before each run.
class SharedKeys final : public AttentionEditor {
 public:
  explicit SharedKeys(SharedKeysConfig config)
      : config_(std::move(config)), source_(config_.layout), target_(config_.layout) {}

  bool active = true;  ///< in this run

  void restart() {
    AttentionEditor::restart();
    source_.restart();
    target_.restart();
  }

 private:
  void attend(Index layer, const AttentionRule<float>& rule,
              std::span<const AttentionCall<float>> calls) override {
    share(layer, rule, calls);
  }
  void attend(Index layer, const AttentionRule<double>& rule,
              std::span<const AttentionCall<double>> calls) override {
    share(layer, rule, calls);
  }

  template <class Real>
  bool fits(std::span<const AttentionCall<Real>> calls) const {
    if (calls.empty() || calls.size() % 2 != 0) {
      fail({"sequences that share keys", "pairs of source and target",
            std::to_string(calls.size())});
      return false;
    }
    for (const auto& c : calls) {
      if (c.q.rows == config_.layout.rows() && c.k.rows == c.q.rows) continue;
      fail({"rows that share keys", std::to_string(config_.layout.rows()) + " as in the layout",
            std::to_string(c.q.rows) + ", and keys " + std::to_string(c.k.rows)});
      return false;
    }
    return true;
  }

  template <class Real>
  void share(Index layer, const AttentionRule<Real>& rule,
             std::span<const AttentionCall<Real>> calls) {
    if (!active) {
      attention<Real>(rule, calls);
      return;
    }
    if (!fits(calls)) return;
    std::vector<std::uint8_t> keep;
    const bool shares = layer >= config_.first_layer && layer <= config_.last_layer;
    if (config_.masked) {
      source_.add(rule, calls[calls.size() - 2], config_.source_tokens);
      target_.add(rule, calls[calls.size() - 1], config_.target_tokens);
      keep = shared_keep(config_.layout, source_.foreground(config_.threshold),
                         target_.foreground(config_.threshold));
    }
    std::vector<AttentionCall<Real>> all(calls.begin(), calls.end());
    for (std::size_t b = 1; shares && b < all.size(); b += 2) {
      all[b] = with_keys_of(all[b - 1], all[b]);
      if (config_.masked) all[b].keep = keep.data();
    }
    attention<Real>(rule, all);
  }

  SharedKeysConfig config_;
  TokenMap source_, target_;
};

// ── Long sequences in overlapping pieces ─────────────────────────────────────────────────────────

/// Frames from pieces of `length` that overlap: Σ w x / Σ w, with w_k = min(u, 2 - u),
/// u = (k + 1/2) 2 / length, a triangle over each piece.
template <class Real>
class OverlapAdd {
 public:
  OverlapAdd(Index frames, Index width, Index length)
      : width_(width),
        length_(length),
        sums_(static_cast<std::size_t>(frames * width)),
        weights_(static_cast<std::size_t>(frames)) {}

  double weight(Index k) const {
    const double u = (static_cast<double>(k) + 0.5) * 2 / static_cast<double>(length_);
    return std::min(u, 2 - u);
  }

  /// A piece [length x width] whose first frame is frame `first` of all.
  void add(Index first, std::type_identity_t<MatrixView<const Real>> piece) {
    const auto frames = static_cast<Index>(weights_.size());
    if (piece.rows != length_ || piece.cols != width_ || first < 0 || first + length_ > frames) {
      fail({"piece of a long sequence",
            std::to_string(length_) + " x " + std::to_string(width_) + " within " +
                std::to_string(frames) + " frames",
            std::to_string(piece.rows) + " x " + std::to_string(piece.cols) + " at frame " +
                std::to_string(first)});
      return;
    }
    for (Index k = 0; k < length_; ++k) {
      const double w = weight(k);
      weights_[static_cast<std::size_t>(first + k)] += w;
      double* const to = sums_.data() + (first + k) * width_;
      for (Index c = 0; c < width_; ++c) to[c] += w * static_cast<double>(piece.row(k)[c]);
    }
  }

  /// to [frames x width]. An error names a frame that no piece covers.
  Status finish(MatrixView<Real> to) const {
    for (std::size_t f = 0; f < weights_.size(); ++f) {
      if (!(weights_[f] > 0)) {
        return Error{"pieces of a long sequence", "every frame covered",
                     "none at frame " + std::to_string(f)};
      }
      for (Index c = 0; c < width_; ++c) {
        to.row(static_cast<Index>(f))[c] = static_cast<Real>(
            sums_[f * static_cast<std::size_t>(width_) + static_cast<std::size_t>(c)] /
            weights_[f]);
      }
    }
    return {};
  }

 private:
  Index width_, length_;
  std::vector<double> sums_, weights_;
};

}  // namespace limen::inline LIMEN_ABI

#pragma once
/// @file  Causal tracing: which places carry what a corrupted input has lost.
///
///     const auto traced = causal_trace(model, x, Probability{.of = 7},
///         {.corrupt = {.tap = "0.embedding", .rows = {1, 2}}, .sigma = 3 * sigma_of_embeddings},
///         {{{.tap = "blocks.3", .rows = {1, 1}}}, window_of_sites});
///     traced->total, traced->indirect[i]
///
///   P   the metric of the clean run
///   P*  with noise N(0, sigma²) added to the corrupted rows
///   TE = P - P*,   IE(site) = P*(site as in the clean run) - P*      averages over the draws
///
/// Several sites restored together are a window. The same noise serves every site of a draw.
///
/// Meng et al., "Locating and editing factual associations in GPT", arXiv:2202.05262, section 2.

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/probe/patch.hpp>

namespace limen::inline LIMEN_ABI {

struct Corruption {
  Site corrupt;      ///< rows that get noise
  double sigma = 1;  ///< its deviation: 3 times that of the embeddings, in the paper
  int draws = 10;
  std::uint64_t seed = 0;
};

struct CausalTrace {
  double clean = 0;              ///< P
  double corrupted = 0;          ///< P*
  double total = 0;              ///< TE
  std::vector<double> indirect;  ///< IE of each window
};

/// The same with given noise: draws of [rows x columns] numbers for the site.
template <Runs L, class Metric>
Result<CausalTrace> causal_trace(const L& model,
                                 std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x,
                                 const Metric& metric, const Site& corrupt,
                                 const std::vector<Activations>& noise,
                                 const std::vector<std::vector<Site>>& windows) {
  using Real = typename L::Scalar;
  if (noise.empty()) return Error{"causal trace", "at least one draw of noise", "none"};
  Sequence<Real, L::out> y;
  const auto value = [&] { return metric(SequenceView<Real, L::out>(y)); };
  CausalTrace trace;
  trace.indirect.resize(windows.size());
  const Recording clean = record(model, x);
  Probe none;
  if (Status s = try_watch(model, x, none, y); !s) return s.error();
  trace.clean = value();
  for (const Activations& draw : noise) {
    const auto run = [&](const std::vector<Site>& window) {
      Probe probe;
      probe.on(corrupt.tap, [&](const TapPoint& point, auto rows) -> Status {
        Status why;
        const auto part = part_of_site(corrupt, point, rows, why);
        if (!part) return why;
        if (part->rows != draw.rows || part->cols != draw.cols) {
          return Error{"noise", detail::shape(part->rows, part->cols),
                       detail::shape(draw.rows, draw.cols)};
        }
        for (Index t = 0; t < draw.rows; ++t) {
          for (Index d = 0; d < draw.cols; ++d) {
            auto& h = (*part)(t, d);
            h = static_cast<std::remove_reference_t<decltype(h)>>(h + draw(t, d));
          }
        }
        return {};
      });
      for (const Site& site : window) detail::replace_from(probe, site, clean);
      return try_watch(model, x, probe, y);
    };
    if (Status s = run({}); !s) return s.error();
    const double corrupted = value();
    trace.corrupted += corrupted;
    for (std::size_t i = 0; i < windows.size(); ++i) {
      if (Status s = run(windows[i]); !s) return s.error();
      trace.indirect[i] += value() - corrupted;
    }
  }
  const double draws = static_cast<double>(noise.size());
  trace.corrupted /= draws;
  for (double& effect : trace.indirect) effect /= draws;
  trace.total = trace.clean - trace.corrupted;
  return trace;
}

template <Runs L, class Metric>
Result<CausalTrace> causal_trace(const L& model,
                                 std::type_identity_t<SequenceView<typename L::Scalar, L::in>> x,
                                 const Metric& metric, const Corruption& how,
                                 const std::vector<std::vector<Site>>& windows) {
  Index rows = 0, cols = 0;
  Probe size;
  size.on(how.corrupt.tap, [&](const TapPoint& point, auto all) -> Status {
    Status why;
    if (const auto part = part_of_site(how.corrupt, point, all, why)) {
      rows = part->rows;
      cols = part->cols;
    }
    return why;
  });
  Sequence<typename L::Scalar, L::out> y;
  if (Status s = try_watch(model, x, size, y); !s) return s.error();
  std::vector<Activations> noise;
  for (int draw = 0; draw < how.draws; ++draw) {
    Random random = Random(how.seed).split(static_cast<std::uint64_t>(draw));
    Activations one{rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols))};
    for (double& v : one.values) v = how.sigma * random.normal();
    noise.push_back(std::move(one));
  }
  return causal_trace(model, x, metric, how.corrupt, noise, windows);
}

}  // namespace limen::inline LIMEN_ABI

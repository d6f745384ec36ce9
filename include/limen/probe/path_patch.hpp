#pragma once
/// @file  Path patching: the effect of one part on the answer by way of one other part only.
///
///     path_effect(study, {.sender = {.tap = "0.inner.a"}, .receiver = {.tap = "1.inner.0.in"},
///                         .frozen = {"*.inner.a", "*.inner.1.m"}})
///
///   1  record base and source                                         (what the study did)
///   2  run the base, the sender as in the source, the frozen parts as in the base; keep what
///      reaches the receiver
///   3  run the base with only the receiver's input replaced by that
///
/// The receiver is a tap on the input of the part. Without one the path ends at the output: what
/// run 2 answers. `frozen` lists parts that must not carry the effect on (heads, mixers), not the
/// stream that they write into, which would cut the path. Norms that are not frozen compute anew.
///
/// Wang et al., "Interpretability in the wild", arXiv:2211.00593; Goldowsky-Dill et al.,
/// "Localizing model behavior with path patching", arXiv:2304.05969.

#include <algorithm>
#include <string>
#include <vector>

#include <limen/probe/patch.hpp>

namespace limen::inline LIMEN_ABI {

struct Path {
  Site sender;                      ///< what the part gives
  Site receiver = {};               ///< what the other one takes; without a name: the answer
  std::vector<std::string> frozen;  ///< patterns; the sender may be among them
};

template <class L, class Metric>
Result<Effect> path_effect(const Patching<L, Metric>& study, const Path& path) {
  if (!study.fault()) return study.fault().error();
  const auto first_fit = [&](const std::string& tap) {
    const auto& all = study.base().entries();
    return std::find_if(all.begin(), all.end(), [&](const auto& e) { return fits(tap, e.name); });
  };
  const bool to_the_end = path.receiver.tap.empty();
  if (!to_the_end && !(first_fit(path.sender.tap) < first_fit(path.receiver.tap))) {
    return Error{"path to " + path.receiver.tap, "a receiver behind " + path.sender.tap,
                 "one in front of it"};
  }
  Recording reached;
  Probe sending;
  for (const std::string& part : path.frozen) {
    sending.on(part, [&](const TapPoint& point, auto rows) -> Status {
      if (fits(path.sender.tap, point.name)) return {};
      return detail::replace_part({.tap = part}, point, rows,
                                  *study.base().find(point.name, point.pass));
    });
  }
  detail::replace_from(sending, path.sender, study.source());
  if (to_the_end) return study.measure(sending);
  sending.on(path.receiver.tap, RecordInto{&reached});
  if (const auto sent = study.measure(sending); !sent) return sent.error();
  Probe receiving;
  detail::replace_from(receiving, path.receiver, reached);
  return study.measure(receiving);
}

}  // namespace limen::inline LIMEN_ABI

// One step of beam search, request by request, on one thread.
//
// Candidates are met in the order of (parent, code), in which equal scores are wanted: so one must
// exceed the worst of the best so far, and since none exceeds its beam's score, most beams of a
// wide search need not be looked at.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "beam_rows.h"
#include "best_candidates.h"

namespace glass {

// int32 or int64, told apart at every read: there are few.
struct Whole {
  const int32_t* narrow;
  const int64_t* wide;

  int64_t at(int64_t i) const { return narrow ? narrow[i] : wide[i]; }
};

// Children of the nodes of one depth, and a filter's nodes among them.
struct Children {
  const int32_t* offsets;  // [parents + 1]
  const int32_t* codes;    // [count]; -1: the SID has ended
  int64_t parents, count;
  const int64_t* filter_offsets;  // [B + 1]; null: no filter
  const int32_t* filter_nodes;
  bool filter_keeps;
};

template <typename Real>
struct BeamStep {
  int64_t num_beams, num_codes, beam_width;
  bool mask_before_softmax;
  const Real* scores;                     // [B, W]
  Whole nodes;                            // [B, W]
  const Children* children;               // null: every code of a beam is its child
  Real* best_scores;                      // [B, W'], as are the others
  int32_t *parents, *codes, *best_nodes;  // the last one only with children
};

enum class BeamMistake { kNone, kNode, kTrie };

struct BeamFault {
  BeamMistake mistake = BeamMistake::kNone;
  int64_t node = 0;
};

template <typename L>
class BeamWorker {
 public:
  using Real = typename L::Real;

  BeamWorker(const BeamStep<Real>& step, const Logits<Real>& logits)
      : step_(step),
        logits_(logits),
        places_(static_cast<uint32_t>(step.num_codes + 1)),
        beams_(new Beam[step.num_beams]),
        row_(new Real[step.num_codes + kRowPadding]),
        all_(new Real[step.mask_before_softmax ? 0 : step.num_codes + kRowPadding]),
        best_(step.beam_width) {}

  GLASS_INLINE BeamFault run(int64_t request) {
    best_.clear();
    const BeamFault fault = find_children(request);
    if (fault.mistake != BeamMistake::kNone) return fault;
    for (int64_t w = 0; w < step_.num_beams; ++w) {
      if (!(beams_[w].score > best_.threshold())) continue;  // also where it is NaN
      if (!step_.children) {
        extend_by_all(request, w);
      } else if (beams_[w].count > 0 && !extend(request, w)) {
        return {BeamMistake::kTrie};
      }
    }
    write(request);
    return {};
  }

 private:
  struct Beam {
    Real score;
    int32_t first, count;  // children
  };

  // The children of a beam that the request's filter lists.
  struct Listed {
    const int32_t *begin = nullptr, *end = nullptr;
  };

  // In turns over all beams, so that the memory is waited for once.
  BeamFault find_children(int64_t request) {
    const int64_t begin = request * step_.num_beams;
    for (int64_t w = 0; w < step_.num_beams; ++w) beams_[w] = {step_.scores[begin + w], 0, 0};
    if (!step_.children) return {};
    const Children& children = *step_.children;
    for (int64_t w = 0; w < step_.num_beams; ++w) {
      const int64_t node = step_.nodes.at(begin + w);
      if (node < -1 || node >= children.parents) return {BeamMistake::kNode, node};
      __builtin_prefetch(children.offsets + std::max<int64_t>(node, 0));
    }
    for (int64_t w = 0; w < step_.num_beams; ++w) {
      const int64_t node = step_.nodes.at(begin + w);
      if (node < 0) continue;
      const int64_t first = children.offsets[node], stop = children.offsets[node + 1];
      const bool inside = 0 <= first && first <= stop && stop <= children.count;
      if (!inside || stop - first > places_) return {BeamMistake::kTrie};
      beams_[w].first = static_cast<int32_t>(first);
      beams_[w].count = static_cast<int32_t>(stop - first);
      __builtin_prefetch(children.codes + first);
    }
    return {};
  }

  // False if the trie has codes outside of the codebook.
  GLASS_INLINE bool extend(int64_t request, int64_t w) {
    const Children& children = *step_.children;
    const Beam beam = beams_[w];
    const bool filtered = children.filter_offsets != nullptr;
    const Listed listed = filtered ? listed_children(request, beam) : Listed{};
    if (filtered && listed.end - listed.begin == (children.filter_keeps ? 0 : beam.count)) {
      return true;
    }
    const int32_t* codes = children.codes + beam.first;
    const bool ends = codes[0] == -1;  // worth what its prefix is, whatever the logits
    if (ends && (!filtered || allows(listed, beam.first))) offer(w, 0, beam.score);
    codes += ends;
    const int64_t n = beam.count - ends;
    if (n == 0) return true;
    const bool one_run = is_run(codes, n);
    if (!in_codebook(codes, n, one_run)) return false;
    if (n == 1 && step_.mask_before_softmax) {  // of probability 1
      const bool possible = one_logit(logits_, first_logit(request, w) + codes[0]) > kNever<Real>;
      if (possible && (!filtered || allows(listed, beam.first + ends))) offer(w, ends, beam.score);
      return true;
    }
    Scores<Real> scores;
    const bool in_reach = step_.mask_before_softmax
                              ? score_children(request, w, codes, n, one_run, scores)
                              : score_all(request, w, codes, n, one_run, scores);
    if (!in_reach) return true;
    if (filtered) apply_filter(w, ends, n, scores, listed);
    if (!(filtered && children.filter_keeps)) scan(w, ends, n, scores);
    return true;
  }

  // Rising codes without a gap; if they do not rise, at least the ends are as far apart.
  static GLASS_INLINE bool is_run(const int32_t* codes, int64_t n) {
    return int64_t{codes[n - 1]} - codes[0] == n - 1;
  }

  GLASS_INLINE bool in_codebook(const int32_t* codes, int64_t n, bool one_run) const {
    if (one_run) return codes[0] >= 0 && codes[n - 1] < step_.num_codes;
    uint32_t most = 0;
    for (int64_t i = 0; i < n; ++i) most = std::max(most, static_cast<uint32_t>(codes[i]));
    return most < static_cast<uint64_t>(step_.num_codes);
  }

  int64_t first_logit(int64_t request, int64_t w) const {
    return request * logits_.request + w * logits_.beam;
  }

  // These leave the clean logits of the children, or of all codes, in row_. False if none can be
  // among the best.
  GLASS_INLINE bool score_children(int64_t request, int64_t w, const int32_t* codes, int64_t n,
                                   bool one_run, Scores<Real>& scores) {
    const int64_t at = first_logit(request, w);
    const RowFacts<Real> facts = one_run ? load_row<L>(logits_, at + codes[0], n, row_.get())
                                         : gather_row<L>(logits_, at, codes, n, row_.get());
    return find_scores(facts, facts.largest, row_.get(), n, beams_[w].score, scores);
  }

  GLASS_INLINE bool score_all(int64_t request, int64_t w, const int32_t* codes, int64_t n,
                              bool one_run, Scores<Real>& scores) {
    const int64_t all = step_.num_codes;
    const RowFacts<Real> facts = load_row<L>(logits_, first_logit(request, w), all, all_.get());
    Real best = kNever<Real>;
    for (int64_t i = 0; i < n; ++i) {
      row_[i] = all_[one_run ? codes[0] + i : codes[i]];
      best = row_[i] > best ? row_[i] : best;
    }
    pad_row<L>(row_.get(), n);
    return find_scores(facts, best, all_.get(), all, beams_[w].score, scores);
  }

  GLASS_INLINE void extend_by_all(int64_t request, int64_t w) {
    const int64_t n = step_.num_codes;
    const RowFacts<Real> facts = load_row<L>(logits_, first_logit(request, w), n, row_.get());
    Scores<Real> scores;
    if (find_scores(facts, facts.largest, row_.get(), n, beams_[w].score, scores)) {
      scan(w, 0, n, scores);
    }
  }

  // Of logits up to `best`; false if none of them can be among the best candidates.
  GLASS_INLINE bool find_scores(const RowFacts<Real>& facts, Real best, const Real* row, int64_t n,
                                Real beam, Scores<Real>& scores) {
    if (best == kNever<Real> || most_score(facts, n, best, beam) <= best_.threshold()) return false;
    scores = {facts.largest, log_sum<L>(row, n, facts.largest), beam};
    return scores.of(best) > best_.threshold();
  }

  Listed listed_children(int64_t request, const Beam& beam) const {
    const Children& children = *step_.children;
    const int32_t* begin = children.filter_nodes + children.filter_offsets[request];
    const int32_t* end = children.filter_nodes + children.filter_offsets[request + 1];
    begin = std::lower_bound(begin, end, beam.first);
    return {begin, std::lower_bound(begin, end, int64_t{beam.first} + beam.count)};
  }

  bool allows(const Listed& listed, int64_t node) const {
    return std::binary_search(listed.begin, listed.end, node) == step_.children->filter_keeps;
  }

  // Offers what is kept, or strikes what is removed from row_.
  void apply_filter(int64_t w, bool ends, int64_t n, const Scores<Real>& scores,
                    const Listed& listed) {
    for (const int32_t* node = listed.begin; node < listed.end; ++node) {
      const int64_t i = int64_t{*node} - beams_[w].first - ends;
      if (i < 0 || i >= n) continue;
      if (!step_.children->filter_keeps) {
        row_[i] = kNever<Real>;
      } else {
        offer(w, i + ends, scores.of(row_[i]));
      }
    }
  }

  GLASS_INLINE void scan(int64_t w, bool ends, int64_t n, const Scores<Real>& scores) {
    scan_row<L>(
        row_.get(), n, scores, [&] { return best_.threshold(); },
        [&](int64_t i, Real score) { add(w, i + ends, score); });
  }

  void offer(int64_t w, int64_t child, Real score) {
    if (score > best_.threshold()) add(w, child, score);
  }
  void add(int64_t w, int64_t child, Real score) {
    best_.add(score + Real{0}, static_cast<uint32_t>(w) * places_ + static_cast<uint32_t>(child));
  }

  void write(int64_t request) {
    const int64_t found = best_.finish(), width = step_.beam_width, at = request * width;
    for (int64_t i = 0; i < found; ++i) {
      const uint32_t place = best_.place(i), w = place / places_, child = place % places_;
      step_.best_scores[at + i] = best_.score(i);
      step_.parents[at + i] = static_cast<int32_t>(w);
      step_.codes[at + i] = static_cast<int32_t>(child);
      if (!step_.children) continue;
      const int32_t node = beams_[w].first + static_cast<int32_t>(child);
      step_.codes[at + i] = step_.children->codes[node];
      step_.best_nodes[at + i] = node;
    }
    std::fill_n(step_.best_scores + at + found, width - found, kNever<Real>);
    std::fill_n(step_.parents + at + found, width - found, 0);
    std::fill_n(step_.codes + at + found, width - found, -1);
    if (step_.children) std::fill_n(step_.best_nodes + at + found, width - found, -1);
  }

  const BeamStep<Real>& step_;
  const Logits<Real>& logits_;
  const uint32_t places_;  // of a beam's children, numbered from 0
  std::unique_ptr<Beam[]> beams_;
  std::unique_ptr<Real[]> row_, all_;
  BestCandidates<Real> best_;
};

}  // namespace glass

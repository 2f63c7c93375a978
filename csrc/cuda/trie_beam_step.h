// What trie_beam_step_op.cpp (torch, no CUDA) calls in trie_beam_step.cu (CUDA, no torch).
#pragma once

#include <cstdint>

#include "export.h"

enum BeamFloat { kBeamFloat32, kBeamFloat16, kBeamBFloat16, kBeamFloat64 };

struct BeamStepCall {
  const void* logits;  // [num_requests, num_beams, num_codes] of logits_kind
  int64_t logits_kind;
  const void* scores;  // [num_requests, num_beams] of scores_kind
  int64_t scores_kind;
  int64_t num_requests;
  int64_t num_beams;
  int64_t num_codes;
  const void* nodes;  // [num_requests, num_beams] int32, or int64 if wide_nodes
  int64_t wide_nodes;
  const int32_t* child_offsets;  // [num_parents + 1]; null: every code is a child, nodes is unused
  const int32_t* child_codes;    // [num_children]
  int64_t num_parents;
  int64_t num_children;
  int64_t max_children;  // of a node; num_codes without a trie
  int64_t mask_before_softmax;
  const int64_t* filter_offsets;  // [num_requests + 1], or null
  const int32_t* filter_nodes;    // [num_filtered]
  int64_t num_filtered;
  int64_t filter_keeps;
  int64_t beam_width;  // at most glass_beam_step_widest()
  int64_t splits;      // of glass_beam_step_splits
  // [num_requests, splits, beam_width] each, uninitialised; unused with one split. Scores are
  // float32, or float64 if logits or scores are.
  void* partial_scores;
  int32_t* partial_children;
  int32_t* partial_parents;
  // [num_requests, beam_width] each, uninitialised
  void* out_scores;
  int32_t* out_nodes;  // null without a trie
  int32_t* out_parents;
  int32_t* out_codes;
};

// Largest beam_width.
GLASS_EXPORT int64_t glass_beam_step_widest();

// Blocks that share the beams of a request, each of which looks at so many codes.
GLASS_EXPORT int64_t glass_beam_step_splits(int64_t num_requests, int64_t num_beams, int64_t codes,
                                            int processors);

// All pointers are the device's. Returns a cudaError_t; waits for nothing.
GLASS_EXPORT int glass_beam_step(const BeamStepCall* call, void* stream);

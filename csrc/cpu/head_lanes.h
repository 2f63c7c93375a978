// Rows of all heads, laid out so that a vector holds the heads side by side: a score of every head
// is then one chain of multiply-adds, without a horizontal sum.
//
// A block is as many heads as fit; the lanes a block has to spare take parts of each head's
// dimension, and are summed once a score. Row: [blocks, steps, width], zeros where nothing is.
#pragma once

#include <cstdint>

namespace glass {

struct HeadLanes {
  int64_t heads, head_dim, width;
  int64_t parts = 1;  // lanes of a head
  int64_t blocks = 0, steps = 0;
  int64_t row = 0;  // numbers in a packed row

  HeadLanes(int64_t num_heads, int64_t dim, int64_t vector_width)
      : heads(num_heads), head_dim(dim), width(vector_width) {
    int64_t least = INT64_MAX;
    for (int64_t split = 1; split <= width; split *= 2) {
      const int64_t per_block = width / split;
      const int64_t count = (heads + per_block - 1) / per_block;
      const int64_t cost = count * (2 * ((dim + split - 1) / split) + kExpCost + (split > 1) * 4);
      if (cost >= least) continue;
      least = cost;
      parts = split;
      blocks = count;
      steps = (dim + split - 1) / split;
    }
    row = blocks * steps * width;
  }

  // Where the first number of a head goes; each `step` further are the next `parts` numbers.
  int64_t first(int64_t head) const {
    const int64_t per_block = width / parts;
    return head / per_block * steps * width + head % per_block * parts;
  }

 private:
  static constexpr int64_t kExpCost = 14;  // of a softmax weight, in multiply-adds
};

}  // namespace glass

// A stack of encoder layers for one user after another, whose rows stay in the cache from the first
// layer to the last. Padding is left out at the start: it costs nothing, and whether a user has any
// changes no bit of the result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "encoder_rows.h"

namespace glass {

// Sizes and tensors; the packed weights of layer after layer.
struct EncoderCall {
  int64_t users, positions, width, heads, head_dim, hidden, layers, memories;
  const float* x;     // [users, positions, width]
  const bool* valid;  // [users, positions], or null: all
  const float* bias;  // [heads, 2 * positions - 1], of key - query
  const float *qkv, *output, *up, *down, *memory;
  float* out;  // [memories, users, 2, heads, positions, head_dim]
  EncoderKernels kernels;

  int64_t inner() const { return heads * head_dim; }
};

// A matrix `number` of some [depth, columns], packed one after another.
inline Panels nth_matrix(const float* packed, int64_t number, int64_t depth, int64_t columns) {
  return {packed + number * depth * round_up(columns, kWholePanels),
          depth,
          columns,
          kPanel,
          depth * kPanel,
          true};
}

// A step between rows whose columns then spread over all sets of a cache.
inline int64_t row_step(int64_t width) { return (((width + kPanel - 1) / kPanel) | 1) * kPanel; }

constexpr int64_t kQueriesAtOnce = 48;  // whose scores are there at a time
constexpr int64_t kHiddenAtOnce = 128;  // of the feed-forward, a multiple of kReluDepth
constexpr int64_t kRowsAtOnce = 192;    // that pass through a feed-forward together

// Positions next to each other that are no padding, from row `row` on of what is computed.
struct Stretch {
  int64_t position, row, count;
};

// Floats on cache lines, zero at first.
class FloatLines {
 public:
  explicit FloatLines(int64_t count) : bytes_(static_cast<size_t>(count) * sizeof(float)) {}
  float* get() const { return reinterpret_cast<float*>(bytes_.get()); }

 private:
  CacheLines bytes_;
};

// What a thread needs beside a user's rows.
struct EncoderRoom {
  int64_t head_step, score_step;
  FloatLines head;    // [positions, head_step]: queries, keys, values of a head
  FloatLines keys;    // the keys in panels
  FloatLines scores;  // [kQueriesAtOnce, score_step]
  FloatLines bias;    // of a head by distance, and zeros
  FloatLines biases;  // [kQueriesAtOnce, score_step], where there is padding between positions
  FloatLines hidden;  // [kRowsAtOnce, hidden_step]
  float inverse[kQueriesAtOnce];

  static constexpr int64_t kHiddenStep = kHiddenAtOnce + kPanel;

  explicit EncoderRoom(const EncoderCall& call)
      : head_step(row_step(2 * call.head_dim + round_up(call.head_dim, call.kernels.columns))),
        score_step(row_step(round_up(call.positions, call.kernels.columns))),
        head(call.positions * head_step),
        keys(call.head_dim * round_up(call.positions, kWholePanels)),
        scores(kQueriesAtOnce * score_step),
        bias(2 * call.positions + kWholePanels),
        biases(kQueriesAtOnce * score_step),
        hidden(std::min(kRowsAtOnce, call.positions) * kHiddenStep) {}
};

// Threads that share the work of a user.
class EncoderTeam {
 public:
  EncoderTeam(const EncoderCall& call, int64_t size) {
    for (int64_t member = 0; member < size; ++member) rooms_.emplace_back(call);
  }
  int64_t size() const { return static_cast<int64_t>(rooms_.size()); }

  // run(room, task) for every task, each by one thread.
  template <typename F>
  void each(int64_t tasks, const F& run) {
    const int64_t members = std::min(size(), tasks);
    if (members <= 1) {
      for (int64_t task = 0; task < tasks; ++task) run(rooms_[0], task);
      return;
    }
    torch::stable::parallel_for(0, members, 1, [&](int64_t first, int64_t last) {
      for (int64_t member = first; member < last; ++member) {
        for (int64_t task = member; task < tasks; task += members) run(rooms_[member], task);
      }
    });
  }

 private:
  std::vector<EncoderRoom> rooms_;
};

// The rows of a user on their way through the layers.
class EncoderUser {
 public:
  explicit EncoderUser(const EncoderCall& call)
      : call_(call),
        x_step_(row_step(call.width)),
        heads_step_(row_step(call.inner())),
        x_(call.positions * x_step_),
        normed_(call.positions * x_step_),
        heads_(call.positions * heads_step_) {}

  void run(int64_t user, EncoderTeam& team) {
    enter(user);
    const int64_t blocks =
        std::max((count_ + kRowsAtOnce - 1) / kRowsAtOnce, std::min(team.size(), count_));
    for (int64_t layer = 0; layer < call_.layers; ++layer) {
      team.each(call_.heads, [&](EncoderRoom& room, int64_t head) { attend(room, layer, head); });
      team.each(blocks, [&](EncoderRoom& room, int64_t block) {
        const int64_t first = block * count_ / blocks, last = (block + 1) * count_ / blocks;
        for (int64_t row = first; row < last; row += kRowsAtOnce) {
          feed(room, layer, row, std::min(kRowsAtOnce, last - row));
        }
      });
    }
    team.each(call_.memories, [&](EncoderRoom&, int64_t number) { leave(user, number); });
  }

 private:
  PanelRows rows(const FloatLines& of, int64_t first, int64_t count, int64_t step) const {
    return {of.get() + first * step, count, step};
  }

  // Takes the rows that are no padding.
  void enter(int64_t user) {
    const bool* valid = call_.valid == nullptr ? nullptr : call_.valid + user * call_.positions;
    stretches_.clear();
    count_ = 0;
    for (int64_t at = 0; at < call_.positions; ++at) {
      if (valid != nullptr && !valid[at]) continue;
      if (stretches_.empty() || stretches_.back().position + stretches_.back().count != at) {
        stretches_.push_back({at, count_, 0});
      }
      ++stretches_.back().count;
      std::copy_n(call_.x + (user * call_.positions + at) * call_.width, call_.width,
                  x_.get() + count_ * x_step_);
      float* row = x_.get() + count_++ * x_step_;
      std::fill(row + call_.width, row + x_step_, 0.0f);  // a user before may have left NaN
    }
    call_.kernels.norm(rows(x_, 0, count_, x_step_), call_.width, normed_.get());
  }

  // Attention of a head, into its columns of heads_.
  void attend(EncoderRoom& room, int64_t layer, int64_t head) const {
    const EncoderKernels& kernels = call_.kernels;
    const int64_t dim = call_.head_dim, wide = round_up(count_, kernels.columns);
    kernels.multiply(rows(normed_, 0, count_, x_step_),
                     nth_matrix(call_.qkv, layer * call_.heads + head, call_.width, 3 * dim),
                     room.head.get(), room.head_step, Finish::kStore);
    pack_keys(room);
    const int64_t distances = 2 * call_.positions - 1;
    std::copy_n(call_.bias + head * distances, distances, room.bias.get());
    const Panels keys = Panels::packed(room.keys.get(), dim, wide);
    const Panels values{room.head.get() + 2 * dim, count_, dim, room.head_step, kPanel};
    const int64_t blocks = (count_ + kQueriesAtOnce - 1) / kQueriesAtOnce;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * count_ / blocks, last = (block + 1) * count_ / blocks;
      float* to = heads_.get() + first * heads_step_ + head * dim;
      kernels.multiply(rows(room.head, first, last - first, room.head_step), keys,
                       room.scores.get(), room.score_step, Finish::kStore);
      kernels.weigh(room.scores.get(), last - first, room.score_step, count_,
                    biases_of(room, first, last), room.inverse);
      kernels.multiply({room.scores.get(), last - first, room.score_step}, values, to, heads_step_,
                       Finish::kStore);
      kernels.scale(to, last - first, heads_step_, dim, room.inverse);
    }
  }

  void pack_keys(EncoderRoom& room) const {
    const int64_t dim = call_.head_dim;
    for (int64_t key = 0; key < round_up(count_, kWholePanels); ++key) {
      const float* from = room.head.get() + key * room.head_step + dim;
      float* to = room.keys.get() + key / kPanel * kPanel * dim + key % kPanel;
      for (int64_t d = 0; d < dim; ++d) to[d * kPanel] = key < count_ ? from[d] : 0;
    }
  }

  // Of queries [first, last).
  BiasRows biases_of(EncoderRoom& room, int64_t first, int64_t last) const {
    const float* zero = room.bias.get() + call_.positions - 1;  // where key and query are the same
    if (stretches_.size() == 1) return {zero - first, -1};
    for (const Stretch& queries : stretches_) {
      const int64_t end = std::min(last, queries.row + queries.count);
      for (int64_t row = std::max(first, queries.row); row < end; ++row) {
        const int64_t query = queries.position + row - queries.row;
        float* to = room.biases.get() + (row - first) * room.score_step;
        for (const Stretch& keys : stretches_) {
          std::copy_n(zero + keys.position - query, keys.count, to + keys.row);
        }
      }
    }
    return {room.biases.get(), room.score_step};
  }

  // Output projection and feed-forward of rows from `first` on.
  void feed(EncoderRoom& room, int64_t layer, int64_t first, int64_t count) const {
    const EncoderKernels& kernels = call_.kernels;
    const int64_t width = call_.width, hidden = call_.hidden;
    const PanelRows x = rows(x_, first, count, x_step_),
                    normed = rows(normed_, first, count, x_step_);
    float *x_out = x_.get() + first * x_step_, *normed_out = normed_.get() + first * x_step_;
    kernels.multiply(rows(heads_, first, count, heads_step_),
                     nth_matrix(call_.output, layer, call_.inner(), width), x_out, x_step_,
                     Finish::kAdd);
    kernels.norm(x, width, normed_out);
    const Panels up = nth_matrix(call_.up, layer, width, hidden);
    const int64_t down_step = round_up(width, kWholePanels);
    const float* down = call_.down + layer * hidden * down_step;
    for (int64_t begin = 0; begin < hidden; begin += kHiddenAtOnce) {
      const int64_t part = std::min(kHiddenAtOnce, hidden - begin);
      kernels.multiply(normed, up.columns_from(begin, part), room.hidden.get(), room.kHiddenStep,
                       Finish::kStore);
      kernels.add_relu({room.hidden.get(), count, room.kHiddenStep}, part, down + begin * down_step,
                       down_step, width, x_out, x_step_);
    }
    kernels.norm(x, width, normed_out);
  }

  // Keys and values for a layer of a decoder, which reads one head after another; zeros at padding.
  void leave(int64_t user, int64_t number) const {
    const int64_t dim = call_.head_dim, positions = call_.positions, parts = 2 * call_.heads;
    float* out = call_.out + (number * call_.users + user) * parts * positions * dim;
    for (int64_t part = 0; part < parts; ++part, out += positions * dim) {
      const Panels weight = nth_matrix(call_.memory, number * parts + part, call_.width, dim);
      int64_t done = 0;
      for (const Stretch& stretch : stretches_) {
        std::fill(out + done * dim, out + stretch.position * dim, 0.0f);
        done = stretch.position + stretch.count;
        call_.kernels.multiply(rows(normed_, stretch.row, stretch.count, x_step_), weight,
                               out + stretch.position * dim, dim, Finish::kStore);
      }
      std::fill(out + done * dim, out + positions * dim, 0.0f);
    }
  }

  const EncoderCall& call_;
  int64_t x_step_, heads_step_, count_ = 0;
  FloatLines x_, normed_, heads_;  // [positions, step]: the rows, those after a norm, attention
  std::vector<Stretch> stretches_;
};

}  // namespace glass

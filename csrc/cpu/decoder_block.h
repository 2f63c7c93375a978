// A decoder step of a block of beams: their rows go through all layers while they stay in the
// cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "bag_worker.h"
#include "decoder_kernels.h"
#include "memory_panels.h"
#include "relu_product.h"

namespace glass {

inline Panels columns_of(const Panels& panels, int64_t first,
                         int64_t count) {  // whole panels first
  return {panels.data + first / kPanel * panels.panel, panels.depth, count, panels.step,
          panels.panel};
}

struct DecoderLayer {
  Panels qkv, attended, query, context, up;
  const float* down;  // [feed, width up to a multiple of kWholePanels]
  MemoryView keys, values;
  // of the searched history
  Panels found, gate_near, gate_far;
  const float* gate_bias;
  TokenRows<float> table;
};

enum class Gate { kNone, kFixed, kLearned };  // kNone: nothing is searched

// Rows are the beams of one user after another.
struct DecoderCall {
  int64_t users, beams, width, heads, dim, feed;
  int64_t positions;  // of the encoder's output
  int64_t level;      // positions of a beam before this one
  std::vector<DecoderLayer> layers;
  const float* x;                  // [rows, width]
  const bool* valid;               // [users, positions], or null: all
  const float* bias;               // [level + 1, heads]
  const float* scale;              // [width], of the last norm
  std::vector<const float*> past;  // of each level [layers, users, beams of then, 2, inner]
  std::vector<int64_t> past_beams;
  const int64_t* ancestors;    // [rows, level], beams of the user
  const Retrieved* retrieved;  // a set a row; null without a gate
  const HeadLanes* lanes;
  TileLoop<float> attend_bag;
  Gate gate;
  float fixed_gate;
  bool gate_reads_state;  // the first half of the learned gate's input
  bool empty_is_short;    // a beam that found nothing has no gate
  DecoderKernel kernel;
  AddReluProduct add_relu;
  float* hidden;   // [rows, width]
  float* present;  // [layers, rows, 2, inner]

  int64_t inner() const { return heads * dim; }
  int64_t rows() const { return users * beams; }
};

// Runs blocks one after another on one thread.
class DecoderBlock {
 public:
  DecoderBlock(const DecoderCall& call, int64_t most_rows)
      : call_(call), memory_(call.positions, call.dim), factors_(most_rows) {
    const int64_t columns[] = {call.width,   call.width,  call.width,
                               call.width,   call.width,  3 * call.inner(),
                               call.inner(), kFeedAtOnce, call.positions};
    int64_t total = 0;
    for (const int64_t each : columns) total += step(each);
    room_ = AlignedRows<float>(most_rows, total);
    Rows* const rows[] = {&x_, &unit_, &near_, &far_, &logits_, &qkv_, &context_, &feed_, &scores_};
    float* next = room_.get();
    for (int i = 0; i < 9; ++i) {
      *rows[i] = {next, step(columns[i])};
      next += most_rows * rows[i]->step;
    }
    for (const Rows& zero_after : {near_, far_, logits_}) {  // whole registers are read
      for (int64_t row = 0; row < most_rows; ++row) {
        std::fill(zero_after.row(row) + call.width, zero_after.row(row + 1), 0.0f);
      }
    }
    past_.resize(call.level + 1);
    past_scores_.resize(round_up(call.level + 1, kWholePanels));
    if (call.gate != Gate::kNone) {
      maker_.emplace(call.retrieved->num_tokens);
      packer_.emplace(*call.lanes);
      tile_.emplace(*call.lanes);
    }
  }

  // Rows [begin, end).
  BagFault run(int64_t begin, int64_t end) {
    begin_ = begin;
    count_ = end - begin;
    if (call_.gate != Gate::kNone) {
      const BagFault fault = make_bags();
      if (fault.mistake != BagMistake::kNone) return fault;
    }
    const int64_t width = call_.width;
    for (int64_t row = 0; row < count_; ++row) {
      std::copy_n(call_.x + (begin + row) * width, width, x_.row(row));
      std::fill(x_.row(row) + width, x_.row(row + 1), 0.0f);  // a row before may have left NaN
    }
    for (size_t layer = 0; layer < call_.layers.size(); ++layer) {
      attend_to_past(call_.layers[layer], static_cast<int64_t>(layer));
      attend_to_history(call_.layers[layer]);
      feed_forward(call_.layers[layer]);
    }
    call_.kernel.unit(x_, count_, width, unit_);
    for (int64_t row = 0; row < count_; ++row) {
      const float* from = unit_.row(row);
      float* to = call_.hidden + (begin + row) * width;
      for (int64_t c = 0; c < width; ++c) to[c] = from[c] * call_.scale[c];
    }
    return {};
  }

 private:
  static constexpr int64_t kFeedAtOnce = 2 * kReluDepth;  // columns of the hidden layer, held

  // One more cache line than a multiple of 32: steps of a page's size share cache sets.
  static int64_t step(int64_t columns) { return round_up(columns, kWholePanels) + kPanel; }

  void multiply(Rows rows, const Panels& by, Rows out, Finish finish) const {
    call_.kernel.multiply({rows.data, count_, rows.step}, by, out.data, out.step, finish);
  }

  // run(user, first row in the block, end)
  template <typename F>
  void for_users(const F& run) const {
    for (int64_t row = 0; row < count_;) {
      const int64_t user = (begin_ + row) / call_.beams;
      const int64_t end = std::min(count_, (user + 1) * call_.beams - begin_);
      run(user, row, end);
      row = end;
    }
  }

  // --- self-attention

  void attend_to_past(const DecoderLayer& layer, int64_t number) {
    const int64_t inner = call_.inner(), level = call_.level;
    call_.kernel.unit(x_, count_, call_.width, unit_);
    multiply(unit_, layer.qkv, qkv_, Finish::kStore);
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t place = begin_ + row, user = place / call_.beams;
      const int64_t* ancestors = call_.ancestors + place * level;
      for (int64_t p = 0; p < level; ++p) {
        const int64_t beams = call_.past_beams[p];
        past_[p] =
            call_.past[p] + ((number * call_.users + user) * beams + ancestors[p]) * 2 * inner;
      }
      past_[level] = qkv_.row(row) + inner;
      std::copy_n(past_[level], 2 * inner,
                  call_.present + (number * call_.rows() + place) * 2 * inner);
      const OwnPast past{past_, call_.bias, call_.heads, call_.dim};
      call_.kernel.attend_past(past, qkv_.row(row), past_scores_.data(), context_.row(row));
    }
    multiply(context_, layer.attended, x_, Finish::kAdd);
  }

  // --- cross-attention

  void attend_to_history(const DecoderLayer& layer) {
    call_.kernel.unit(x_, count_, call_.width, unit_);
    const int64_t queries = call_.gate == Gate::kNone ? 1 : 2;
    multiply(unit_, columns_of(layer.query, 0, queries * call_.inner()), qkv_, Finish::kStore);
    for_users([&](int64_t user, int64_t first, int64_t end) {
      const bool* valid = call_.valid ? call_.valid + user * call_.positions : nullptr;
      memory_.attend_to(valid, call_.positions);
      for (int64_t head = 0; head < call_.heads; ++head) {
        memory_.pack(layer.keys, layer.values, user, head);
        attend_to_memory(head, first, end - first);
      }
    });
    if (call_.gate == Gate::kNone) return multiply(context_, layer.context, x_, Finish::kAdd);
    multiply(context_, layer.context, near_, Finish::kStore);
    attend_to_found(layer);
    multiply(context_, layer.found, far_, Finish::kStore);
    fuse(layer);
  }

  void attend_to_memory(int64_t head, int64_t first, int64_t count) {
    const int64_t dim = call_.dim, at = head * dim;
    float* out = context_.row(first) + at;
    call_.kernel.multiply({qkv_.row(first) + at, count, qkv_.step}, memory_.keys(), scores_.data,
                          scores_.step, Finish::kStore);
    if (memory_.count() > 0) {
      call_.kernel.softmax(scores_, count, memory_.count(), factors_.data());
    } else {
      std::fill_n(factors_.begin(), count, 0.0f);
    }
    call_.kernel.multiply({scores_.data, count, scores_.step}, memory_.values(), out, context_.step,
                          Finish::kStore);
    for (int64_t row = 0; row < count; ++row) {
      float* to = out + row * context_.step;
      for (int64_t d = 0; d < dim; ++d) to[d] *= factors_[row];
    }
  }

  // --- what was searched

  // Bags of the block's sets, equal ones of a user shared; all layers attend to them.
  BagFault make_bags() {
    BagFault fault;
    const Retrieved& retrieved = *call_.retrieved;
    num_groups_ = 0;
    group_rows_.clear();
    for_users([&](int64_t, int64_t first, int64_t end) {
      for (int64_t row = first; row < end && fault.mistake == BagMistake::kNone; ++row) {
        fault = check_positions(retrieved, begin_ + row);
      }
      if (fault.mistake != BagMistake::kNone) return;
      groups_.find(retrieved, begin_ + first, begin_ + end);
      for (const int64_t set : groups_.first) {
        if (num_groups_ == bags_.size()) {
          bags_.emplace_back();
          group_ends_.emplace_back();
        }
        const BagFault found = maker_->fill(retrieved, set, bags_[num_groups_]);
        if (found.mistake != BagMistake::kNone) fault = found;
        for (int64_t each = set; each >= 0; each = groups_.next(each)) {
          group_rows_.push_back(each - begin_);
        }
        group_ends_[num_groups_++] = static_cast<int64_t>(group_rows_.size());
      }
    });
    return fault;
  }

  void attend_to_found(const DecoderLayer& layer) {
    int64_t begin = 0;
    for (size_t group = 0; group < num_groups_; ++group) {
      const Bag<float>& bag = bags_[group];
      const int64_t end = group_ends_[group],
                    tiles = (end - begin + kMostQueries - 1) / kMostQueries;
      tile_->make_room(*call_.lanes, bag.size, false);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t* rows = group_rows_.data() + begin + (end - begin) * tile / tiles;
        attend_to_bag(layer, bag, rows,
                      group_rows_.data() + begin + (end - begin) * (tile + 1) / tiles - rows);
      }
      begin = end;
    }
  }

  void attend_to_bag(const DecoderLayer& layer, const Bag<float>& bag, const int64_t* rows,
                     int64_t count) {
    const int64_t inner = call_.inner(), row = call_.lanes->row;
    if (bag.size == 0) {
      for (int64_t i = 0; i < count; ++i) std::fill_n(context_.row(rows[i]), inner, 0.0f);
      return;
    }
    tile_->count = count;
    for (int64_t i = 0; i < count; ++i) {
      packer_->pack(qkv_.row(rows[i]) + inner, 1, tile_->queries.data() + i * row);
    }
    call_.attend_bag(*call_.lanes, bag, layer.table, *tile_);
    for (int64_t i = 0; i < count; ++i) {
      packer_->unpack(tile_->out.data() + i * row, 1, context_.row(rows[i]));
    }
  }

  // x += near, mixed with far by the gate.
  void fuse(const DecoderLayer& layer) {
    const int64_t width = call_.width;
    if (call_.gate == Gate::kLearned) {
      for (int64_t row = 0; row < count_; ++row) {
        std::copy_n(layer.gate_bias, width, logits_.row(row));
      }
      multiply(call_.gate_reads_state ? unit_ : near_, layer.gate_near, logits_, Finish::kAdd);
      multiply(far_, layer.gate_far, logits_, Finish::kAdd);
    }
    for (int64_t row = 0; row < count_; ++row) {
      float* x = x_.row(row);
      const float *near = near_.row(row), *far = far_.row(row);
      if (call_.empty_is_short && call_.retrieved->lengths[begin_ + row] == 0) {
        for (int64_t c = 0; c < width; ++c) x[c] += near[c];
      } else if (call_.gate == Gate::kLearned) {
        call_.kernel.fuse(logits_.row(row), near, far, width, x);
      } else {
        for (int64_t c = 0; c < width; ++c) {
          x[c] += near[c] + call_.fixed_gate * (far[c] - near[c]);
        }
      }
    }
  }

  // --- feed-forward

  void feed_forward(const DecoderLayer& layer) {
    const int64_t down_step = round_up(call_.width, kWholePanels);
    call_.kernel.unit(x_, count_, call_.width, unit_);
    for (int64_t first = 0; first < call_.feed; first += kFeedAtOnce) {
      const int64_t columns = std::min(kFeedAtOnce, call_.feed - first);
      multiply(unit_, columns_of(layer.up, first, columns), feed_, Finish::kStore);
      call_.add_relu({feed_.data, count_, feed_.step}, columns, layer.down + first * down_step,
                     down_step, call_.width, x_.data, x_.step);
    }
  }

  const DecoderCall& call_;
  int64_t begin_ = 0, count_ = 0;
  AlignedRows<float> room_;
  Rows x_{}, unit_{}, near_{}, far_{}, logits_{}, qkv_{}, context_{}, feed_{}, scores_{};
  MemoryPanels memory_;
  std::vector<float> factors_, past_scores_;
  std::vector<const float*> past_;
  SetGroups groups_;
  size_t num_groups_ = 0;
  std::vector<Bag<float>> bags_;
  std::vector<int64_t> group_rows_, group_ends_;  // rows of one group after another
  std::optional<BagMaker<float>> maker_;
  std::optional<RowPacker<float>> packer_;
  std::optional<QueryTile<float>> tile_;
};

}  // namespace glass

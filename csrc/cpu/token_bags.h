// The bag of a retrieved set: its distinct tokens and how often each occurs. Attention without
// positional bias depends on nothing else. Sets of a user that retrieve the same positions (beams
// of one code) are found, so that they share a bag.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace glass {

enum class BagMistake { kNone, kTokens, kPositions };

// A value out of range that was met.
struct BagFault {
  BagMistake mistake = BagMistake::kNone;
  int64_t held = 0;
};

struct Retrieved;

template <typename Real>
struct Bag {
  static constexpr int64_t kSlack = 8;  // entries past the end that may be read: weight 0

  int64_t size = 0;
  std::vector<int32_t> tokens;  // in the order of their first occurrence
  std::vector<Real> counts;
};

// Makes bags one after another.
template <typename Real>
class BagMaker {
 public:
  explicit BagMaker(int64_t num_tokens) : slot_(num_tokens, -1) {}

  // `bag` becomes that of `set`.
  BagFault fill(const Retrieved& retrieved, int64_t set, Bag<Real>& bag);

 private:
  std::vector<int32_t> slot_;  // of each token in the bag, -1: absent
  std::vector<int32_t> number_;

  template <typename Position, typename Token>
  BagFault fill_from(const Retrieved& retrieved, int64_t set, Bag<Real>& bag);
};

struct Retrieved {
  const void* positions;  // [sets, max_items], int32 or int64
  bool wide_positions;
  const void* tokens;  // [num_events, per_event], int32 or int64
  bool wide_tokens;
  std::vector<int64_t> lengths;  // [sets], each at most max_items
  int64_t max_items, num_events, per_event, num_tokens;

  int64_t position_bytes() const { return wide_positions ? 8 : 4; }
  const char* row(int64_t set) const {
    return static_cast<const char*>(positions) + set * max_items * position_bytes();
  }
  bool same(int64_t a, int64_t b) const {
    const int64_t length = lengths[a];
    return length == lengths[b] &&
           (length == 0 || std::memcmp(row(a), row(b), length * position_bytes()) == 0);
  }
  // Equal for equal sets, and nearly always different for others.
  uint64_t hash(int64_t set) const {
    const int64_t bytes = position_bytes(), length = lengths[set];
    uint64_t mixed = static_cast<uint64_t>(length);
    for (const int64_t slot : {int64_t{0}, length / 2, length - 1}) {
      uint64_t value = 0;
      if (length > 0) std::memcpy(&value, row(set) + slot * bytes, bytes);
      mixed = (mixed ^ value) * 0x9e3779b97f4a7c15u;
    }
    return mixed ^ (mixed >> 32);
  }
};

// Looks at every position of `set`, used or not.
template <typename Position>
inline BagFault check_positions(const Retrieved& retrieved, int64_t set) {
  const Position* positions = reinterpret_cast<const Position*>(retrieved.row(set));
  Position least = -1, most = -1;
  for (int64_t slot = 0; slot < retrieved.max_items; ++slot) {
    least = std::min(least, positions[slot]);
    most = std::max(most, positions[slot]);
  }
  if (least < -1) return {BagMistake::kPositions, least};
  if (most >= retrieved.num_events) return {BagMistake::kPositions, most};
  return {};
}

inline BagFault check_positions(const Retrieved& retrieved, int64_t set) {
  return retrieved.wide_positions ? check_positions<int64_t>(retrieved, set)
                                  : check_positions<int32_t>(retrieved, set);
}

template <typename Real>
template <typename Position, typename Token>
BagFault BagMaker<Real>::fill_from(const Retrieved& retrieved, int64_t set, Bag<Real>& bag) {
  const Position* positions = reinterpret_cast<const Position*>(retrieved.row(set));
  const Token* tokens_of = static_cast<const Token*>(retrieved.tokens);
  const int64_t per_event = retrieved.per_event, length = retrieved.lengths[set];
  const int64_t most = std::min(length * per_event, retrieved.num_tokens);
  const int64_t room = most + bag.kSlack;
  if (static_cast<int64_t>(bag.tokens.size()) < room) {
    bag.tokens.resize(room);
    bag.counts.resize(room);
  }
  if (static_cast<int64_t>(number_.size()) < room) number_.resize(room);
  BagFault fault;
  int32_t found = 0;
  for (int64_t i = 0; i < length; ++i) {
    if (positions[i] < 0) continue;
    const Token* event = tokens_of + static_cast<int64_t>(positions[i]) * per_event;
    for (int64_t level = 0; level < per_event; ++level) {
      const Token token = event[level];
      if (token < 0 || token >= retrieved.num_tokens) {
        fault = {BagMistake::kTokens, token};
        continue;
      }
      int32_t& slot = slot_[token];
      if (slot < 0) {
        slot = found;
        bag.tokens[found] = static_cast<int32_t>(token);
        number_[found++] = 0;
      }
      ++number_[slot];
    }
  }
  bag.size = found;
  for (int64_t i = 0; i < found; ++i) {
    slot_[bag.tokens[i]] = -1;
    bag.counts[i] = static_cast<Real>(number_[i]);
  }
  if (found > 0) {
    std::fill_n(bag.tokens.begin() + found, bag.kSlack, bag.tokens[0]);
    std::fill_n(bag.counts.begin() + found, bag.kSlack, Real{0});
  }
  return fault;
}

template <typename Real>
BagFault BagMaker<Real>::fill(const Retrieved& retrieved, int64_t set, Bag<Real>& bag) {
  if (retrieved.wide_positions) {
    return retrieved.wide_tokens ? fill_from<int64_t, int64_t>(retrieved, set, bag)
                                 : fill_from<int64_t, int32_t>(retrieved, set, bag);
  }
  return retrieved.wide_tokens ? fill_from<int32_t, int64_t>(retrieved, set, bag)
                               : fill_from<int32_t, int32_t>(retrieved, set, bag);
}

// Sets [begin, end) of a user, sorted into groups that retrieve the same positions.
class SetGroups {
 public:
  std::vector<int64_t> first;  // a set of each group

  void find(const Retrieved& retrieved, int64_t begin, int64_t end) {
    begin_ = begin;
    first.clear();
    last_.clear();
    next_.assign(end - begin, -1);
    size_t places = 4;
    while (places < 2 * static_cast<size_t>(end - begin)) places *= 2;
    places_.assign(places, -1);
    for (int64_t set = begin; set < end; ++set) {
      size_t place = retrieved.hash(set) & (places - 1);
      while (places_[place] >= 0 && !retrieved.same(first[places_[place]], set)) {
        place = (place + 1) & (places - 1);
      }
      if (places_[place] < 0) {
        places_[place] = static_cast<int32_t>(first.size());
        first.push_back(set);
        last_.push_back(set);
      } else {
        int64_t& last = last_[places_[place]];
        next_[last - begin] = set;
        last = set;
      }
    }
  }
  // The set after this one in its group, or -1.
  int64_t next(int64_t set) const { return next_[set - begin_]; }

 private:
  int64_t begin_ = 0;
  std::vector<int64_t> last_, next_;
  std::vector<int32_t> places_;  // hash table of groups, -1: free
};

}  // namespace glass

// Cuts a batch of histories into tasks of about equal cost, for threads to take one after another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace glass {

// Whole users, or a part of the events of one user whose history is long.
struct Task {
  int64_t user, user_end;
  int64_t event, event_end;  // of a part only
  int64_t part;              // number among all parts, -1: whole users
};

struct LongUser {
  int64_t user, part, part_end;
};

struct Plan {
  std::vector<Task> tasks;
  std::vector<LongUser> long_users;
  int64_t parts = 0;
};

constexpr int64_t kUserCost = 64;        // of a user's histogram, in events
constexpr int64_t kLeastCost = 1 << 13;  // that is worth a task
constexpr int64_t kTasksPerThread = 4;

inline Plan plan_tasks(const int64_t* offsets, int64_t num_users, int64_t threads,
                       int64_t user_cost = kUserCost) {
  Plan plan;
  if (threads <= 1) {
    plan.tasks.push_back({0, num_users, 0, 0, -1});
    return plan;
  }
  const int64_t total = offsets[num_users] + num_users * user_cost;
  // a part costs as much as a user, which must stay small beside its events
  const int64_t least = std::max(kLeastCost, 4 * user_cost);
  const int64_t share = std::max(least, total / (threads * kTasksPerThread));
  int64_t first = 0, cost = 0;
  const auto close = [&](int64_t user) {
    if (first < user) plan.tasks.push_back({first, user, 0, 0, -1});
    first = user;
    cost = 0;
  };
  for (int64_t user = 0; user < num_users; ++user) {
    const int64_t begin = offsets[user], end = offsets[user + 1];
    if (end - begin >= 2 * share) {
      close(user);
      const int64_t parts = (end - begin) / share, part = plan.parts;
      for (int64_t i = 0; i < parts; ++i) {
        plan.tasks.push_back({user, user + 1, begin + (end - begin) * i / parts,
                              begin + (end - begin) * (i + 1) / parts, plan.parts++});
      }
      plan.long_users.push_back({user, part, plan.parts});
      first = user + 1;
      continue;
    }
    cost += end - begin + user_cost;
    if (cost >= share) close(user + 1);
  }
  close(num_users);
  return plan;
}

}  // namespace glass

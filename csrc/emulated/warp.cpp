#include "emulated/warp.h"

#include "emulated/memory.h"
#include "emulated/shared.h"

namespace lowbit::emulated {
namespace {

void exchange(void* const (&records)[32], uint32_t mask) {
  uint64_t values[32];
  for (unsigned l = 0; l < 32; ++l) {
    if (mask >> l & 1) values[l] = static_cast<const ShuffleRecord*>(records[l])->value;
  }
  for (unsigned l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    auto& record = *static_cast<ShuffleRecord*>(records[l]);
    if (!(mask >> record.source & 1)) {
      fail_lane(l, "shuffles from lane %u, which takes no part (lanes that do: 0x%08x)", record.source, mask);
    }
    record.value = values[record.source];
  }
}

void vote(void* const (&records)[32], uint32_t mask) {
  uint32_t ballot = 0;
  for (unsigned l = 0; l < 32; ++l) {
    if (mask >> l & 1 && static_cast<const VoteRecord*>(records[l])->predicate) ballot |= 1u << l;
  }
  for (unsigned l = 0; l < 32; ++l) {
    if (mask >> l & 1) static_cast<VoteRecord*>(records[l])->ballot = ballot;
  }
}

}  // namespace

const WarpOperation kShuffle4{"a 4-byte shuffle", exchange, false};
const WarpOperation kShuffle8{"an 8-byte shuffle", exchange, false};
const WarpOperation kVote{"a vote", vote, false};
const WarpOperation kSyncWarp{"__syncwarp", nullptr, false};

uint32_t ballot(uint32_t mask, bool predicate) {
  VoteRecord record{predicate, 0};
  meet(kVote, mask, &record);
  return record.ballot;
}

}  // namespace lowbit::emulated

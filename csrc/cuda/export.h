// Functions that are found by name in the library.
#pragma once

#define GLASS_EXPORT extern "C" __attribute__((visibility("default")))

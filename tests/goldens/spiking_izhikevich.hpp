#pragma once
// Written by tests/goldens/spiking_more.py.

namespace spiking_izhikevich {
struct Train {
  int count, first[10];
};
inline constexpr Train regular_spiking{18, {105, 142, 189, 237, 296, 357, 405, 455, 507, 554}};
inline constexpr Train intrinsically_bursting{24,
                                              {105, 110, 158, 202, 239, 273, 309, 360, 395, 429}};
inline constexpr Train chattering{40, {105, 108, 111, 115, 163, 167, 215, 219, 267, 271}};
inline constexpr Train fast_spiking{61, {105, 123, 135, 146, 159, 171, 182, 197, 208, 222}};
inline constexpr Train low_threshold_spiking{42,
                                             {104, 111, 130, 150, 167, 190, 206, 225, 247, 272}};
inline constexpr Train thalamo_cortical{61, {104, 109, 115, 133, 142, 157, 178, 187, 204, 213}};
inline constexpr Train resonator{70, {26, 103, 108, 118, 136, 154, 166, 179, 195, 206}};
}  // namespace spiking_izhikevich

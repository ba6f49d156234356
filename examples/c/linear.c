/* Three outputs of a 1-bit layer with four inputs. Build: see CMakeLists.txt beside this file. */
#include <lowbit.h>
#include <stdio.h>

int main(void) {
  /* One tile, one block of inputs: the first of each row's four bytes holds its bits. */
  static uint8_t tiles[LOWBIT_TILE_ROWS * 4];
  tiles[0] = 0xF, tiles[4] = 0x5, tiles[8] = 0x0; /* ++++, +-+-, ---- */
  const float x[4] = {1, 2, 3, 4};
  float y[3];
  const lowbit_signs layer = {
      {3, 4, 1, tiles, -1, NULL, LOWBIT_F32, NULL}, 0, NULL, NULL, NULL, 0, LOWBIT_F32};
  const lowbit_input input = {x, LOWBIT_F32, 1, 4, 4};
  const lowbit_output output = {y, LOWBIT_F32, 1, 3, 3};
  if (lowbit_signs_linear(&layer, 1, &input, NULL, LOWBIT_EXACT, &output) != LOWBIT_OK) {
    return fprintf(stderr, "%s\n", lowbit_last_error()), 1;
  }
  return printf("%g %g %g\n", y[0], y[1], y[2]) < 0; /* 10 -2 -10 */
}

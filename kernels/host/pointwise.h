// ReLU and its gradient, the gradient of a bias, and a step of gradient descent.
#pragma once

#include "host/vector.h"

namespace pcn_host {
namespace {

// y may be x: an element is read before it is written.
void relu_forward(long count, const float* x, float* y) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, relu(load(x + i)));
  for (; i < count; ++i) y[i] = x[i] < 0 ? 0.0f : x[i];
}

// dx may be dy.
void relu_backward(long count, const float* dy, const float* y, float* dx) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) store(dx + i, masked(load(dy + i), load(y + i)));
  for (; i < count; ++i) dx[i] = y[i] <= 0 ? 0.0f : dy[i];
}

// sums[c] += the sum of column c of rows in their order.
void add_column_sums(long rows, long columns, const float* x, float* sums) {
  long c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    V sum = {};
    for (long row = 0; row < rows; ++row) sum += load(x + row * columns + c);
    store(sums + c, load(sums + c) + sum);
  }
  for (; c < columns; ++c) {
    float sum = 0;
    for (long row = 0; row < rows; ++row) sum += x[row * columns + c];
    sums[c] += sum;
  }
}

void column_sums(long rows, long columns, const float* x, float* sums) {
  memset(sums, 0, sizeof(float) * columns);
  add_column_sums(rows, columns, x, sums);
}

// v = momentum v - decay w - rate g, then w += v; without decay whatever w is.
void sgd(long count, float momentum, float decay, float rate, const float* g, float* w, float* v) {
  long i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    V velocity = every(momentum) * load(v + i);
    if (decay != 0) velocity -= every(decay) * load(w + i);
    velocity -= every(rate) * load(g + i);
    store(v + i, velocity);
    store(w + i, load(w + i) + velocity);
  }
  for (; i < count; ++i) {
    float velocity = momentum * v[i];
    if (decay != 0) velocity -= decay * w[i];
    velocity -= rate * g[i];
    v[i] = velocity;
    w[i] += velocity;
  }
}

}  // namespace
}  // namespace pcn_host

// All kernels of the `cpu` device, for one level of vector instructions: PCN_HOST_LEVEL names it.
#include "host/augment.h"
#include "host/correlate.h"
#include "host/norm.h"
#include "host/pointwise.h"
#include "host/pool.h"
#include "host/resize.h"
#include "host/wgrad.h"

#define PCN_JOIN(a, b) a##b
#define PCN_KERNELS(level) PCN_JOIN(kernels_, level)
#define PCN_TEXT(level) #level
#define PCN_NAME(level) PCN_TEXT(level)

namespace pcn_host {

const Kernels PCN_KERNELS(PCN_HOST_LEVEL) = {
    PCN_NAME(PCN_HOST_LEVEL),
    kLanes,
    pack,
    correlate,
    wgrad,
    wgrad_sum,
    max_pool,
    max_pool_backward,
    inverse_counts,
    avg_pool,
    avg_pool_backward,
    lrn,
    lrn_backward,
    relu_forward,
    relu_backward,
    column_sums,
    sgd,
    augment,
    resize,
};

}  // namespace pcn_host

// pyconvnet.ops.augment below Python: crop, mirror, colour and mean.
#include "augment/augment.h"

#include "array.h"

namespace pcn::bind {
namespace {

template <class T>
void augment(const std::string& kernel, const AugmentShape& shape, py::object y, py::object images,
             py::object indices, py::object crop, py::object mirror, py::object colour, py::object mean,
             float scale, std::uintptr_t stream) {
  Args args("augment");
  const std::int64_t in_count = shape.images * elements("augment", {shape.h, shape.w, shape.c});
  const std::int64_t out_count = shape.side == 0
                                     ? elements("augment", {shape.n, shape.crop_h, shape.crop_w, shape.c})
                                     : elements("augment", {shape.n, shape.to_h, shape.to_w, shape.to_c});
  if (shape.side != 0 && shape.to_c % (16 / sizeof(T)) != 0)
    throw py::value_error("augment: the channels of the depth layout must fill accesses of 16 bytes");
  T* y_ = args.out<T>(y, "out", out_count);
  const bool bytes = Args::is<std::uint8_t>(images);
  const void* images_ = bytes ? static_cast<const void*>(args.in<std::uint8_t>(images, "images", in_count))
                              : args.in<float>(images, "images", in_count);
  if (indices.is_none() && shape.images != shape.n)
    throw py::value_error("augment: without indices there must be as many images as crops");
  const std::int32_t* indices_ = args.optional_in<std::int32_t>(indices, "indices", shape.n);
  const std::int32_t* crop_ = args.optional_in<std::int32_t>(crop, "crop", std::int64_t{2} * shape.n);
  const std::uint8_t* mirror_ = args.optional_in<std::uint8_t>(mirror, "mirror", shape.n);
  const float* colour_ = args.optional_in<float>(colour, "colour", std::int64_t{shape.n} * shape.c);
  if (mean.is_none() != (shape.mean_pixels == 0))
    throw py::value_error("augment: mean must be there exactly where the shape's mean_pixels is not 0");
  const float* mean_ = args.optional_in<float>(mean, "mean", std::int64_t{shape.mean_pixels} * shape.c);
  const AugmentRow<T>& row = row_of("augment", augment_kernels<T>(), kernel, shape);
  run(row.name, [&] {
    return row.launch(y_, images_, bytes, indices_, crop_, mirror_, colour_, mean_, scale, shape,
                      stream_of(stream));
  });
}

}  // namespace

void register_augment(py::module_& m) {
  py::class_<AugmentShape>(m, "AugmentShape", py::module_local())
      .def(py::init([](int n, int h, int w, int c, int crop_h, int crop_w, int mean_pixels, int side,
                       int pad_h, int pad_w, int to_h, int to_w, int to_c, int images) {
             elements("AugmentShape", {h, w, c});
             if (images < 0) throw py::value_error("AugmentShape: images must not be negative");
             if (images == 0) elements("AugmentShape", {n, h, w, c});  // of so many, one for each crop
             elements("AugmentShape", {n, crop_h, crop_w, c});
             if (mean_pixels != 0 && mean_pixels != 1 && mean_pixels != h * w)
               throw py::value_error("AugmentShape: mean_pixels must be 0, 1 or h * w, got " +
                                     std::to_string(mean_pixels));
             if (side != 0) {
               elements("AugmentShape", {n, to_h, to_w, to_c});
               constexpr int limit = 1 << 29;  // coordinates in 32 bits
               if (side < 1 || side > 64 || pad_h < 0 || pad_w < 0 || pad_h >= limit || pad_w >= limit ||
                   std::int64_t{to_h} * side >= limit || std::int64_t{to_w} * side >= limit ||
                   to_c < std::int64_t{side} * side * c)
                 throw py::value_error("AugmentShape: side, padding and extents make no depth layout");
             }
             return AugmentShape{images ? images : n, h,    w,     c,     n,    crop_h, crop_w,
                                 mean_pixels,         side, pad_h, pad_w, to_h, to_w,   to_c};
           }),
           py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"), py::arg("crop_h"),
           py::arg("crop_w"), py::arg("mean_pixels"), py::arg("side") = 0, py::arg("pad_h") = 0,
           py::arg("pad_w") = 0, py::arg("to_h") = 0, py::arg("to_w") = 0, py::arg("to_c") = 0,
           py::arg("images") = 0);
  def_table(m, "augment", augment_kernels<float>);
  m.def("augment", [](const std::string& kernel, const AugmentShape& shape, py::object y, py::object images,
                      py::object indices, py::object crop, py::object mirror, py::object colour,
                      py::object mean, float scale, std::uintptr_t stream) {
    (Args::is<Bf16>(y) ? augment<Bf16> : augment<float>)(kernel, shape, y, images, indices, crop, mirror,
                                                         colour, mean, scale, stream);
  });
}

}  // namespace pcn::bind

// pyconvnet.ops.augment below Python: crop, mirror, colour and mean.
#include "augment/augment.h"

#include "array.h"

namespace pcn::bind {
namespace {

template <class T>
void augment(const std::string& kernel, const AugmentShape& shape, py::object y, py::object images,
             py::object crop, py::object mirror, py::object colour, py::object mean, float scale,
             std::uintptr_t stream) {
  Args args("augment");
  const std::int64_t in_count = elements("augment", {shape.n, shape.h, shape.w, shape.c});
  const std::int64_t out_count = elements("augment", {shape.n, shape.crop_h, shape.crop_w, shape.c});
  T* y_ = args.out<T>(y, "out", out_count);
  const bool bytes = Args::is<std::uint8_t>(images);
  const void* images_ = bytes ? static_cast<const void*>(args.in<std::uint8_t>(images, "images", in_count))
                              : args.in<float>(images, "images", in_count);
  const std::int32_t* crop_ = args.in<std::int32_t>(crop, "crop", std::int64_t{2} * shape.n);
  const std::uint8_t* mirror_ = args.optional_in<std::uint8_t>(mirror, "mirror", shape.n);
  const float* colour_ = args.optional_in<float>(colour, "colour", std::int64_t{shape.n} * shape.c);
  if (mean.is_none() != (shape.mean_pixels == 0))
    throw py::value_error("augment: mean must be there exactly where the shape's mean_pixels is not 0");
  const float* mean_ = args.optional_in<float>(mean, "mean", std::int64_t{shape.mean_pixels} * shape.c);
  const AugmentRow<T>& row = row_of("augment", augment_kernels<T>(), kernel, shape);
  run(row.name, [&] {
    return row.launch(y_, images_, bytes, crop_, mirror_, colour_, mean_, scale, shape, stream_of(stream));
  });
}

}  // namespace

void register_augment(py::module_& m) {
  py::class_<AugmentShape>(m, "AugmentShape", py::module_local())
      .def(py::init([](int n, int h, int w, int c, int crop_h, int crop_w, int mean_pixels) {
             elements("AugmentShape", {n, h, w, c});
             elements("AugmentShape", {n, crop_h, crop_w, c});
             if (mean_pixels != 0 && mean_pixels != 1 && mean_pixels != h * w)
               throw py::value_error("AugmentShape: mean_pixels must be 0, 1 or h * w, got " +
                                     std::to_string(mean_pixels));
             return AugmentShape{n, h, w, c, crop_h, crop_w, mean_pixels};
           }),
           py::kw_only(), py::arg("n"), py::arg("h"), py::arg("w"), py::arg("c"), py::arg("crop_h"),
           py::arg("crop_w"), py::arg("mean_pixels"));
  def_table(m, "augment", augment_kernels<float>);
  m.def("augment", [](const std::string& kernel, const AugmentShape& shape, py::object y, py::object images,
                      py::object crop, py::object mirror, py::object colour, py::object mean, float scale,
                      std::uintptr_t stream) {
    (Args::is<Bf16>(y) ? augment<Bf16> : augment<float>)(kernel, shape, y, images, crop, mirror, colour, mean,
                                                         scale, stream);
  });
}

}  // namespace pcn::bind

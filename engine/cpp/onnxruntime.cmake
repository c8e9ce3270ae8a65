# onnxruntime's headers and library: -DONNXRUNTIME_INCLUDE=... -DONNXRUNTIME_LIBRARY=... if need be.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_cxx_api.h PATH_SUFFIXES onnxruntime REQUIRED)
find_library(ONNXRUNTIME_LIBRARY onnxruntime REQUIRED)
target_include_directories(engine PRIVATE ${ONNXRUNTIME_INCLUDE})
target_link_libraries(engine PRIVATE ${ONNXRUNTIME_LIBRARY})

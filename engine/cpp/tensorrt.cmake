# TensorRT's and CUDA's headers and libraries: -DTENSORRT_INCLUDE=... -DTENSORRT_LIBRARY=...,
# -DCUDA_INCLUDE=... -DCUDA_LIBRARY=... if need be.
set(cuda /usr/local/cuda)
find_path(TENSORRT_INCLUDE NvInfer.h PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE} REQUIRED)
find_library(TENSORRT_LIBRARY nvinfer REQUIRED)
find_path(CUDA_INCLUDE cuda_runtime_api.h PATHS ${cuda}/include REQUIRED)
find_library(CUDA_LIBRARY cudart PATHS ${cuda}/lib64 REQUIRED)
target_include_directories(engine SYSTEM PRIVATE ${TENSORRT_INCLUDE} ${CUDA_INCLUDE})
target_link_libraries(engine PRIVATE ${TENSORRT_LIBRARY} ${CUDA_LIBRARY})

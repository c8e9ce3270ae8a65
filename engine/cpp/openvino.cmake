# OpenVINO: -DOpenVINO_DIR=... if need be, the folder cmake of Python's package openvino for example.
find_package(OpenVINO REQUIRED COMPONENTS Runtime)
target_link_libraries(engine PRIVATE openvino::runtime)

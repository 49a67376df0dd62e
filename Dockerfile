# docker build -t onnxq . && docker run --rm --user "$(id -u)" -v "$PWD:/work" onnxq quantize model.onnx --calib data/
FROM python:3.12-slim
COPY pyproject.toml constraints.txt README.md LICENSE CHANGELOG.md /src/
COPY onnxq /src/onnxq
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[all]"
WORKDIR /work
ENTRYPOINT ["onnxq"]

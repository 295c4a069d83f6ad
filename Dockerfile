# facekd with the versions of constraints.txt.
#
#   docker build -t facekd .                          CUDA, by the wheels of torch: needs only the driver, `--gpus all`
#   docker build -t facekd-cpu --build-arg TORCH=cpu .
#   docker run --rm --gpus all --shm-size 8g -v /data:/data -v $PWD/runs:/home/facekd/runs facekd train configs/debug.yaml
#
# Loader workers hand batches over in shared memory, so give --shm-size.
FROM python:3.12-slim
ARG TORCH=cuda
WORKDIR /opt/facekd
COPY constraints.txt ./
# torch first: its CPU build, if wanted, comes from its own index, and pip keeps it afterwards.
RUN if [ "$TORCH" = cpu ]; then \
        pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch torchvision; \
    else \
        pip install --no-cache-dir -c constraints.txt torch torchvision; \
    fi
COPY . .
RUN pip install --no-cache-dir -c constraints.txt . && rm -rf build
# Nothing needs root; results belong to whoever runs the container with --user.
RUN useradd --create-home facekd
USER facekd
WORKDIR /home/facekd
ENTRYPOINT ["facekd"]
CMD ["--help"]

#!/usr/bin/env bash
# Two machines with eight GPUs each under Slurm; what is in SBATCH lines is yours to change.
#   sbatch launch/slurm.sh --recipe my.yaml --data /shared/shards --out /shared/run
# Every argument goes to training. A job that is preempted or reaches its time limit saves, asks to be queued again, and
# goes on where it was.
#SBATCH --job-name=tubelet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

# The first machine of the job is where the processes meet, at a port that two jobs hardly share.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS=1

# --signal without B: sends USR1 to the processes of srun, 300 s before the end: each saves, and they leave with 75.
# Not every release of Slurm lets srun know --cpus-per-task of the job.
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" python launch/train.py --resume auto "$@"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

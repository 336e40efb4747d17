// Prints the pod that Flink makes for a TaskManager of a pod template.
//
//   java -cp FLINK TaskManagerPod.java TEMPLATE

import java.io.File;
import java.util.Collections;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.kubernetes.configuration.KubernetesConfigOptions;
import org.apache.flink.kubernetes.kubeclient.FlinkKubeClient;
import org.apache.flink.kubernetes.kubeclient.FlinkKubeClientFactory;
import org.apache.flink.kubernetes.kubeclient.FlinkPod;
import org.apache.flink.kubernetes.kubeclient.factory.KubernetesTaskManagerFactory;
import org.apache.flink.kubernetes.kubeclient.parameters.KubernetesTaskManagerParameters;
import org.apache.flink.kubernetes.shaded.io.fabric8.kubernetes.client.utils.Serialization;
import org.apache.flink.kubernetes.utils.Constants;
import org.apache.flink.kubernetes.utils.KubernetesUtils;
import org.apache.flink.runtime.clusterframework.ContaineredTaskManagerParameters;
import org.apache.flink.runtime.clusterframework.TaskExecutorProcessUtils;

/** What KubernetesResourceManagerDriver does, but for giving the pod to Kubernetes. */
public final class TaskManagerPod {
  public static void main(String[] arguments) throws Exception {
    Configuration configuration = new Configuration();
    configuration.set(KubernetesConfigOptions.CLUSTER_ID, "battery");
    configuration.set(TaskManagerOptions.TOTAL_PROCESS_MEMORY, MemorySize.parse("2g"));
    configuration.set(TaskManagerOptions.RPC_PORT, "6122");
    // Nobody is asked anything.
    FlinkKubeClient client =
        FlinkKubeClientFactory.getInstance().fromConfiguration(configuration, "test");
    FlinkPod template =
        KubernetesUtils.loadPodFromTemplateFile(
            client, new File(arguments[0]), Constants.MAIN_CONTAINER_NAME);
    ContaineredTaskManagerParameters process =
        ContaineredTaskManagerParameters.create(
            configuration, TaskExecutorProcessUtils.processSpecFromConfig(configuration));
    KubernetesTaskManagerParameters parameters =
        new KubernetesTaskManagerParameters(
            configuration, "battery-taskmanager-1-1", "", "", process, Collections.emptyMap(),
            Collections.emptySet());
    System.out.println(
        Serialization.asYaml(
            KubernetesTaskManagerFactory.buildTaskManagerKubernetesPod(template, parameters)
                .getInternalResource()));
    // Its threads would go on.
    System.exit(0);
  }
}

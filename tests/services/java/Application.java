// Runs a job's jar as the Kubernetes operator has Flink run it, on a cluster without Kubernetes.
//
//   java -cp FLINK Application.java CONFIGURATION_FOLDER JAR

import java.io.File;
import java.util.Collections;
import org.apache.flink.client.deployment.application.ApplicationClusterEntryPoint;
import org.apache.flink.client.program.DefaultPackagedProgramRetriever;
import org.apache.flink.client.program.PackagedProgram;
import org.apache.flink.client.program.artifact.ArtifactFetchManager;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.plugin.PluginUtils;
import org.apache.flink.runtime.entrypoint.ClusterEntrypoint;
import org.apache.flink.runtime.resourcemanager.StandaloneResourceManagerFactory;

/** KubernetesApplicationClusterEntrypoint, but for what starts TaskManagers: others do. */
public final class Application extends ApplicationClusterEntryPoint {
  private Application(Configuration configuration, PackagedProgram program) {
    super(configuration, program, StandaloneResourceManagerFactory.getInstance());
  }

  public static void main(String[] arguments) throws Exception {
    Configuration configuration = GlobalConfiguration.loadConfiguration(arguments[0]);
    FileSystem.initialize(
        configuration, PluginUtils.createPluginManagerFromRootFolder(configuration));
    File folder = new File(arguments[0], "fetched");
    ArtifactFetchManager.Result fetched =
        new ArtifactFetchManager(configuration, folder.getPath())
            .fetchArtifacts(arguments[1], Collections.emptyList());
    PackagedProgram program =
        DefaultPackagedProgramRetriever.create(
                null, fetched.getJobJar(), fetched.getArtifacts(), null, new String[0],
                configuration)
            .getPackagedProgram();
    configureExecution(configuration, program);
    ClusterEntrypoint.runClusterEntrypoint(new Application(configuration, program));
  }
}
